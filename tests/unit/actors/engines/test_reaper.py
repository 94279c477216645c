import os
import select
import subprocess
import sys

HOST = """
import multiprocessing, sys, time
from actors.engines.reaper import Reaper

if __name__ == "__main__":
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    child.start()
    reaper = Reaper()
    print(child.pid, flush=True)
    sys.stdin.read()
    reaper.close()
    child.join()
"""
WAIT_S = 20.0


def host():
    process = subprocess.Popen([sys.executable, "-c", HOST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return process, os.pidfd_open(int(process.stdout.readline()))


def assert_ends(child):
    assert select.select([child], [], [], WAIT_S)[0], f"the child still ran after {WAIT_S} s"


def test_a_killed_process_takes_its_children_with_it():
    process, child = host()
    process.kill()
    assert_ends(child)
    process.communicate()


def test_closing_ends_them_too():
    process, child = host()
    process.communicate(timeout=WAIT_S)
    assert_ends(child)
    assert process.returncode == 0

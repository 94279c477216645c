import os
import select
import subprocess
import sys

import pytest

HOST = """
import subprocess, sys
from actors.engines.reaper import Reaper

reaper = Reaper()
grandchild = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True); sys.stdin.read()"
child = subprocess.Popen([sys.executable, "-c", grandchild], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline().strip(), flush=True)
sys.stdin.read()
reaper.close()
reaper.close()
child.wait()
"""
WAIT_S = 20.0


@pytest.fixture
def host():
    process = subprocess.Popen([sys.executable, "-c", HOST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process, [os.pidfd_open(int(pid)) for pid in process.stdout.readline().split()]
    process.kill()
    process.wait(WAIT_S)


def assert_end(descendants):
    assert len(descendants) == 2
    for descriptor in descendants:
        assert select.select([descriptor], [], [], WAIT_S)[0], f"it still ran after {WAIT_S} s"


def test_a_killed_process_takes_all_that_it_started_with_it_however_early(host):
    process, descendants = host
    process.kill()
    assert_end(descendants)


def test_closing_ends_them_too(host):
    process, descendants = host
    process.communicate(timeout=WAIT_S)
    assert_end(descendants)
    assert process.returncode == 0

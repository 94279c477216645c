"""A signal to a process that ends or closes slowly: its exit code, and what it says."""

import signal
import subprocess
import sys
import time

import pytest

from unisd_rl.cluster.stop import STOPPED

ENDS_SLOWLY = """
import atexit, sys, time
from unisd_rl.cli import exit_code

atexit.register(time.sleep, 60)
atexit.register(print, "ending", flush=True)

def command(arguments):
    print("began", flush=True)
    time.sleep(60)

sys.exit(exit_code(command, []))
"""


def test_a_late_signal_does_not_change_the_exit_code_of_a_stop():
    process = subprocess.Popen(
        [sys.executable, "-c", ENDS_SLOWLY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in ("began\n", "ending\n"):
        assert process.stdout.readline() == line
        process.send_signal(signal.SIGTERM)
        time.sleep(0.6)
    assert process.wait(10) == STOPPED


CLOSES_SLOWLY = """
import sys, time
from unisd_rl.cli import exit_code

def command(arguments):
    try:
        print("began", flush=True)
        time.sleep(60)
    finally:
        print("closing", flush=True)
        time.sleep(60)

sys.exit(exit_code(command, []))
"""


def test_a_process_that_closes_slowly_is_ended_by_another_signal():
    process = subprocess.Popen(
        [sys.executable, "-c", CLOSES_SLOWLY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in ("began\n", "closing\n"):
        assert process.stdout.readline() == line
        process.send_signal(signal.SIGTERM)
        time.sleep(0.6)  # longer than what is taken for one request
    assert process.wait(10) == STOPPED
    assert process.stderr.read() == "stopped at once\n"


FINISHES = """
import atexit, sys, time
from unisd_rl.cli import exit_code

atexit.register(time.sleep, 1)
atexit.register(print, "ending", flush=True)
sys.exit(exit_code(lambda arguments: 0, None))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_late_signal_does_not_change_the_exit_code_of_what_has_finished(number):
    process = subprocess.Popen([sys.executable, "-c", FINISHES], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ending\n"
    process.send_signal(number)
    assert process.wait(60) == 0

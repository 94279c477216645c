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


def ended_by_signals(program, *lines):
    """Exit code and errors of a program that gets a signal after each of these lines."""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in lines:
        assert process.stdout.readline() == line
        process.send_signal(signal.SIGTERM)
        time.sleep(0.6)  # longer than what is taken for one request
    return process.wait(10), process.stderr.read()


def test_a_late_signal_does_not_change_the_exit_code_of_a_stop():
    code, _ = ended_by_signals(ENDS_SLOWLY, "began\n", "ending\n")
    assert code == STOPPED


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
    assert ended_by_signals(CLOSES_SLOWLY, "began\n", "closing\n") == (STOPPED, "stopped at once\n")


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

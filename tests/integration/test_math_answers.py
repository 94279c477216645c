"""Mathematics compared by math-verify in processes of its own: equal, unequal, and what would never end."""

import pytest

from unisd_rl.tasks.math_equality import MathProcesses
from unisd_rl.tasks.sandbox.limits import Limits

EQUAL = {
    "a fraction and a decimal": (r"\frac12", "0.5"),
    "thousands": ("1,000", "1000"),
    "an expansion": ("x^2+2x+1", "(x+1)^2"),
    "a set in another order": (r"\{1,2\}", r"\{2,1\}"),
    "a root": (r"2\sqrt{3}", r"\sqrt{12}"),
    "words": (r"\text{Evelyn}", "Evelyn"),
    "degrees": (r"90^\circ", "90"),
    "an equation": ("x=5", "5"),
    "dollars": ("$5$", "5"),
}
UNEQUAL = {
    "another number": ("6", "5"),
    "a pair in another order": ("(1,2)", "(2,1)"),
    "another interval": ("[1,2)", "[1,2]"),
    "nearly": (r"\pi", "3.14159"),
    "no mathematics": ("{{{", "3"),
    "nothing": ("", "3"),
    "a number of 5,000 digits": ("1" * 5000, "1" * 5000 + "2"),
    "lines": ("5\n\n6", "5"),
}


@pytest.fixture(scope="module")
def processes():
    found = MathProcesses(Limits(cpu_s=3, wall_s=20.0), 1)
    yield found
    found.close()


def equal(processes, left, right):
    return processes.ask({"left": left, "right": right})


@pytest.mark.parametrize(("left", "right"), EQUAL.values(), ids=EQUAL)
def test_equal_mathematics_is_equal_however_it_is_written(processes, left, right):
    assert equal(processes, left, right)


@pytest.mark.parametrize(("left", "right"), UNEQUAL.values(), ids=UNEQUAL)
def test_other_mathematics_is_not(processes, left, right):
    assert not equal(processes, left, right)


def test_what_never_ends_is_not_equal_and_the_next_question_gets_a_fresh_process(processes):
    assert equal(processes, "1", "1")
    before = processes._free.queue[0]._process
    assert not equal(processes, "9^{9^{9^9}}", "3")
    assert before.poll() is not None
    assert equal(processes, "1", "1")


def test_the_processes_end_with_their_pool():
    found = MathProcesses(Limits(), 2)
    assert equal(found, "2", r"\frac42")
    process = next(process for process in found._free.queue if process)._process
    found.close()
    assert process.poll() is not None

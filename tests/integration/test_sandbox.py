"""Hostile programs: none passes, none does harm, nothing of them survives, and the evaluator goes on."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fakes.hostile_programs import ATTACKS, CHEATS, ENDLESS, HARMLESS, RIGHT, attacks
from unisd_rl.cluster import cores
from unisd_rl.tasks.sandbox.cage import FIRST_USER
from unisd_rl.tasks.sandbox.limits import Limits, Trial
from unisd_rl.tasks.sandbox.pool import Sandbox, SandboxError

LIMITS = Limits(cpu_s=1, wall_s=60, memory_bytes=256 << 20)
TESTS = "assert f(2) == 4\nassert f(3) == 9"


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox(LIMITS, slots=1)
    yield sandbox
    sandbox.close()


@pytest.fixture
def held(sandbox):
    """The sandbox where every protection holds; attacks are only right to fail there."""
    if sandbox.gaps():
        pytest.skip(f"this machine leaves gaps: {'; '.join(sandbox.gaps())}")
    return sandbox


@pytest.fixture(scope="module")
def marker(tmp_path_factory):
    path = tmp_path_factory.mktemp("marked") / "marker"
    path.write_text("still here")
    return path


def trial(program: str, tests: str = TESTS) -> Trial:
    return Trial(program, "", ("f",), tests)


def processes() -> dict[int, tuple[int, int, str]]:
    """Every process: its parent, its user, its command."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat, user = (folder / "stat").read_text(), folder.stat().st_uid
            found[int(folder.name)] = int(stat.rpartition(")")[2].split()[1]), user, (folder / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
    return found


def zygotes() -> list[int]:
    table = processes()
    return [pid for pid, (parent, _, command) in table.items() if parent == os.getpid() and "sandbox.zygote" in command]


def survivors() -> list[int]:
    """Children of our zygotes, and orphans that run as one of the sandbox's users."""
    table, ours = processes(), zygotes()
    users = range(FIRST_USER, FIRST_USER + 2 * 64)
    return [pid for pid, (parent, user, _) in table.items() if parent in ours or (parent == 1 and user in users)]


def alive_and_clean(sandbox: Sandbox, marker: Path) -> bool:
    assert survivors() == []
    assert marker.read_text() == "still here"
    return sandbox.judge(trial(RIGHT)).passed


@pytest.mark.parametrize(("program", "reason"), [case[1:] for case in CHEATS], ids=[case[0] for case in CHEATS])
def test_a_cheating_or_failing_program_is_wrong_and_the_evaluator_goes_on(sandbox, marker, program, reason):
    verdict = sandbox.judge(trial(program))
    assert not verdict.passed
    assert reason in verdict.reason
    assert alive_and_clean(sandbox, marker)


def endless_cases():
    default = ("an endless loop under a broad except", "a fork bomb")  # the others take as long each
    marks = [() if name in default else pytest.mark.slow for name, *_ in ENDLESS]
    return [pytest.param(*case[1:], id=case[0], marks=mark) for case, mark in zip(ENDLESS, marks, strict=True)]


@pytest.mark.parametrize(("program", "reason"), endless_cases())
def test_an_endless_program_is_ended_in_time(sandbox, marker, program, reason):
    verdict = sandbox.judge(trial(program))
    assert not verdict.passed
    assert reason in verdict.reason
    assert alive_and_clean(sandbox, marker)


@pytest.mark.parametrize("wait", ["time.sleep(1000)", "open(3).read()", "os.read(os.pipe()[0], 1)"])
def test_a_program_that_waits_is_ended_by_the_wall_clock(marker, wait):
    sandbox = Sandbox(Limits(wall_s=1), slots=1)
    try:
        verdict = sandbox.judge(trial(f"import os, time\ndef f(x): {wait}"))
        assert (verdict.passed, verdict.reason) == (False, "not through after 1 s")
        assert survivors() == []
    finally:
        sandbox.close()


@pytest.mark.parametrize("name", [name for name, _ in ATTACKS])
def test_an_attack_fails(held, marker, name):
    program = dict(attacks(str(marker), os.getpid()))[name]
    verdict = held.judge(trial(program))
    assert verdict.passed, verdict.reason
    assert alive_and_clean(held, marker)


def test_an_attack_that_needs_no_privilege_succeeds_so_that_the_attacks_are_known_to_be_real(sandbox):
    harmless = ("reads its own folder", "os.listdir('.')")
    program = attacks("marker", 0)[0][1].replace("os.fork()", harmless[1])
    assert "Assert" in sandbox.judge(trial(program)).reason


@pytest.mark.parametrize("program", [program for _, program in HARMLESS], ids=[name for name, _ in HARMLESS])
def test_an_unusual_program_that_is_right_passes(sandbox, program):
    verdict = sandbox.judge(trial(program))
    assert verdict.passed, verdict.reason


def test_a_program_can_replace_no_name_of_the_tests_but_those_it_is_asked_for(sandbox):
    program = "def f(x): return 0\ndef all(x): return True\ndef g(x): return True\nlist = all"
    assert not sandbox.judge(trial(program, "assert all([f(2) == 4])")).passed
    assert "NameError" in sandbox.judge(trial(program, "assert g(f(2))")).reason


def test_changed_arguments_classes_and_iterators_work_across_the_processes(sandbox):
    program = """
class Node:
    def __init__(self, value): self.value, self.left = value, None
def f(items): items.append(4); items.sort()
def total(node): return node.value + (total(node.left) if node.left else 0)
def squares(n): return (i * i for i in range(n))
def pair():
    from collections import namedtuple
    return namedtuple("P", "x y")(1, 2)
"""
    tests = """
items = [9, 2]
assert f(items) is None
assert items == [2, 4, 9]
root = Node(1)
root.left = Node(2)
assert total(root) == 3
assert root.left.value == 2
assert list(squares(4)) == [0, 1, 4, 9]
assert pair() == (1, 2)
"""
    verdict = sandbox.judge(Trial(program, "", ("Node", "f", "pair", "squares", "total"), tests))
    assert verdict.passed, verdict.reason


VALUES = (
    "[1, -(10**5000), 1.5, float('inf'), 2j, True, None, 'ü\\ud800', b'\\0', (), [[]], "
    "{1: {2}}, frozenset(), range(3), int]"
)


@pytest.mark.parametrize(
    "tests",
    [
        f"v = {VALUES}\nw = f(v)\nassert v == w and v is not w",
        f"assert [type(x) for x in f({VALUES})] == [type(x) for x in {VALUES}]",
    ],
)
def test_plain_values_arrive_as_they_are(sandbox, tests):
    verdict = sandbox.judge(Trial("def f(x): return x", "", ("f",), tests))
    assert verdict.passed, verdict.reason


def test_one_trial_finds_nothing_of_an_earlier_one(sandbox):
    leave = "open('left', 'w').write('x')\nimport sys, builtins\nsys.secret = builtins.secret = 1\n" + RIGHT
    clean = "os.listdir('.') == [] and not hasattr(sys, 'secret') and not hasattr(builtins, 'secret')"
    find = f"import os, sys, builtins\ndef f(x): return x * x if {clean} else 0"
    assert sandbox.judge(trial(leave)).passed
    assert sandbox.judge(trial(find)).passed


def test_a_sandbox_that_breaks_is_an_error_not_a_wrong_answer_and_the_next_trial_runs():
    before, sandbox = zygotes(), Sandbox(LIMITS, slots=1)
    try:
        assert sandbox.judge(trial(RIGHT)).passed
        (zygote,) = (pid for pid in zygotes() if pid not in before)
        os.kill(zygote, signal.SIGKILL)
        with pytest.raises(SandboxError):
            sandbox.judge(trial(RIGHT))
        assert sandbox.judge(trial(RIGHT)).passed
    finally:
        sandbox.close()
    with pytest.raises(SandboxError, match="closed"):
        sandbox.judge(trial(RIGHT))


def test_limits_in_which_not_even_the_sandbox_can_live_are_an_error():
    sandbox = Sandbox(Limits(open_files=1), slots=1)
    try:
        with pytest.raises(SandboxError):
            sandbox.judge(trial(RIGHT))
    finally:
        sandbox.close()


def test_nothing_outlives_an_evaluator_that_is_killed():
    code = (
        "from unisd_rl.tasks.sandbox.pool import *; s = Sandbox(slots=1); print(s.gaps(), flush=True);"
        "s.judge(Trial('import time\\nprint(1)\\ntime.sleep(25)', '', (), ''))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as evaluator:
        evaluator.stdout.readline()
        until(lambda: len(offspring(evaluator.pid)) == 3)  # zygote, program and tests
        started = set(offspring(evaluator.pid))
        folders = [Path(word) for pid in started for word in processes()[pid][2].split("\0") if "unisd-trial" in word]
        assert folders
        assert all(folder.is_dir() for folder in folders)
        evaluator.kill()
    until(lambda: not started & set(processes()))
    assert not any(folder.exists() for folder in folders)


def offspring(pid: int) -> list[int]:
    table = processes()
    children = [child for child, (parent, _, _) in table.items() if parent == pid]
    return children + [grandchild for child in children for grandchild in offspring(child)]


def until(condition, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not so within {timeout_s} s"
        time.sleep(0.02)  # to look at all processes without a pause takes the core that they wait for


def test_no_more_programs_run_at_a_time_than_the_limit_of_a_container_pays_for(monkeypatch, tmp_path):
    """More would share its time, and a right one that computes for a second be ended by the wall clock."""
    (tmp_path / "cpu.max").write_text("200000 100000\n")
    monkeypatch.setattr(cores, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    with contextlib.closing(Sandbox(LIMITS)) as sandbox:
        assert sandbox.slots == 2

"""Every reference program of MBPP and HumanEval passes its own tests in the sandbox, and a planted bug does not.

A sample in the default tier; all of them, some thousands of programs, with the slow tests.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fakes.shared_data import shared
from unisd_rl.tasks import humaneval, mbpp
from unisd_rl.tasks.benchmark_data import from_file
from unisd_rl.tasks.programs import ProgrammingTask, trial
from unisd_rl.tasks.sandbox.limits import Limits
from unisd_rl.tasks.sandbox.pool import Sandbox
from unisd_rl.tasks.task import grade_all

SOURCES = {
    "mbpp full": ("mbpp.jsonl", lambda record: mbpp.to_example(record, "full"), 974),
    "mbpp sanitized": ("mbpp_sanitized.jsonl", lambda record: mbpp.to_example(record, "sanitized"), 427),
    "humaneval": ("humaneval.jsonl", humaneval.to_example, 164),
}
TASK = ProgrammingTask([], [])
ATTEMPTS = 12  # bugs tried for each program: some change nothing that a test sees

TIERS = [pytest.param(37, id="a sample"), pytest.param(1, id="all", marks=pytest.mark.slow)]


def examples(source: str, step: int):
    name, to_example, count = SOURCES[source]
    found = [to_example(record) for record in from_file(shared(name))]
    assert len(found) == count
    return found[::step]


@pytest.mark.parametrize("step", TIERS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_reference_program_is_right(source, step):
    asked = examples(source, step)
    graded = grade_all(TASK, [(example.demonstration, example) for example in asked])
    assert [example.id for example, right in zip(asked, graded, strict=True) if not right] == []


@pytest.fixture(scope="module")
def impatient():
    """A sandbox for programs many of which loop for ever."""
    sandbox = Sandbox(Limits(cpu_s=1, wall_s=20))
    yield sandbox
    sandbox.close()


@pytest.mark.parametrize("step", TIERS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_program_has_a_planted_bug_that_is_wrong(impatient, source, step):
    left = {example.id: (example, TASK.wrong_demonstrations(example, seed=0)) for example in examples(source, step)}
    for _ in range(ATTEMPTS):
        tried = [(text, example) for example, bugs in left.values() if (text := next(bugs, None)) is not None]
        with ThreadPoolExecutor(impatient.slots) as threads:
            graded = list(threads.map(lambda answer: impatient.judge(trial(*answer)).passed, tried))
        left = {example.id: left[example.id] for (_, example), right in zip(tried, graded, strict=True) if right}
    assert sorted(left) == []


@pytest.mark.parametrize("source", ["humaneval"])
def test_the_bare_body_is_right_too(source):
    for record in from_file(shared(SOURCES[source][0]))[::20]:
        example = humaneval.to_example(record)
        assert TASK.grade(record.text("canonical_solution"), example)
        assert trial(record.text("canonical_solution"), example).program.startswith(record.text("prompt"))

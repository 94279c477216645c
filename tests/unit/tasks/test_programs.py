"""Programs in completions: where they are found, how they are completed, and how bugs are planted."""

import ast

import pytest

from unisd_rl.tasks.program_mutations import mutated_programs
from unisd_rl.tasks.programs import ProgrammingTask, Reference, fenced, program_in, trial
from unisd_rl.tasks.task import grade_all
from unisd_rl.types import Example

CODE = "def f(x):\n    return x\n"
USE = "print(f(1))\n"

COMPLETIONS = [
    (f"```python\n{CODE}```", CODE),
    (f"Here:\n\n```python\n{CODE}```\nHope it helps.", CODE),
    (f"```\n{CODE}```", CODE),
    (f"```Python3\n{CODE}```", CODE),
    (f"~~~py\n{CODE}~~~", CODE),
    (f"````\n{CODE}````", CODE),
    (f"  ```python\n{CODE}  ```", CODE),
    (f"```python title='a'\n{CODE}```", CODE),
    (f"```python\n{CODE}```\nUse it:\n```python\n{USE}```", CODE),  # the block that defines f
    (f"```python\n{USE}```\nIt is:\n```\n{CODE}```", CODE),
    (f"```python\ndef f(x): pass\n```\nBetter:\n```python\n{CODE}```", CODE),
    (f"```python\n{CODE}", CODE),  # cut
    (f"```text\nno\n```\n```python\n{USE}```", USE),  # none defines f: the last Python block
    ("```text\none\n```\n```text\ntwo\n```", "two\n"),
    (CODE, CODE),
    ("    return x\n", "    return x\n"),
    ("f is `x`", "f is `x`"),
    ("", ""),
    ("```", "```"),
    ("```python\n```", ""),
    ('{"code": "def f(x): return x"}', '{"code": "def f(x): return x"}'),  # no JSON is asked for
]


@pytest.mark.parametrize(("completion", "program"), COMPLETIONS)
def test_the_last_block_that_defines_the_function_is_the_program(completion, program):
    assert program_in(completion, ["f"]) == program


STUB = "import math\n\ndef area(r):\n    return math.pi * r * r\n\ndef f(x):\n    '''Square x.'''\n"
TESTS = Reference(STUB, STUB, ("f",), "def check(c):\n    assert c(3) == 9\n    assert area(0) == 0\ncheck(f)")
EXAMPLE = Example("e", STUB, fenced(STUB + "    return x * x\n"), TESTS.to_json())


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        (EXAMPLE.demonstration, True),
        ("```python\ndef f(x):\n    return int(math.pow(x, 2))\n```", True),  # the stub's imports are there
        ("    return x * x\n", True),
        ("    return x * x\n\nprint(f(2))\n", True),
        ("```python\n    return x * x\n```", True),
        ("return x * x", False),
        ("```python\ndef f(x):\n    return x + x\n```", False),
        (
            "```python\ndef area(r):\n    return 7\n\ndef f(x):\n    return x * x\n```",
            True,
        ),  # tests have their own area
        ("I cannot.", False),
    ],
)
def test_a_stub_is_completed_by_a_function_or_by_its_body(completion, right):
    assert ProgrammingTask([], []).grade(completion, EXAMPLE) is right


def test_many_are_graded_in_their_order():
    answers = [(f"```python\ndef f(x): return x * {n}\n```", EXAMPLE) for n in range(12)]
    assert grade_all(ProgrammingTask([], []), answers) == [n == 3 for n in range(12)]


def test_the_tests_are_not_part_of_the_program():
    assert "check" not in trial(EXAMPLE.demonstration, EXAMPLE).program


REFERENCE = '''def f(items, k):
    """A docstring with < and 3."""
    total = 0  # ü
    for i in range(len(items) - 1):
        if items[i] < k and (i + 1) != 3:
            total += items[i] * 2
    return total
'''


def test_a_planted_bug_is_one_small_change_and_still_python():
    bugs = list(mutated_programs(REFERENCE, 0))
    assert len(bugs) >= 8
    assert len(set(bugs)) == len(bugs)
    for bug in bugs:
        ast.parse(bug)
        changed = [(a, b) for a, b in zip(REFERENCE.splitlines(), bug.splitlines(), strict=True) if a != b]
        assert len(changed) == 1
    assert REFERENCE.replace("return total", "return None") in bugs
    assert bugs == list(mutated_programs(REFERENCE, 0))
    assert bugs != list(mutated_programs(REFERENCE, 1))


@pytest.mark.parametrize("text", ["def f(x: return", "\x00", "\ud800", "", "prose"])
def test_what_is_no_program_has_no_bugs(text):
    assert list(mutated_programs(text, 0)) == []

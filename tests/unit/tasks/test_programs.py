"""Programs in completions: where they are found, how they are completed, and how bugs are planted."""

import ast
from textwrap import indent

import pytest

from unisd_rl.tasks.program_mutations import mutated_programs
from unisd_rl.tasks.programs import (
    ProgrammingTask,
    Reference,
    fenced,
    functions_of,
    mutated_demonstrations,
    program_in,
    trial,
)
from unisd_rl.tasks.task import grade_all
from unisd_rl.types import Example

CODE = "def f(x):\n    return x\n"
USE = "print(f(1))\n"
DOCUMENTED = 'def f(x):\n    """Give it back.\n\n    ```\n    f(1)\n    ```\n    """\n    return x\n'

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
    ("```", ""),
    ("```python\n```", ""),
    (f"1. Write it:\n   ```python\n{indent(CODE, '   ')}   ```\n2. Use it:\n   ```python\n   {USE}   ```", CODE),
    (f"- ```python\n{indent(CODE, '  ')}  ```", CODE),
    (f"> ```python\n{indent(CODE, '> ')}> ```", CODE),
    (f"```python\n{DOCUMENTED}```\nDone.", DOCUMENTED),
    (f"   ```python\n{indent(DOCUMENTED, '   ')}   ```", DOCUMENTED),
    (f"```python\n{CODE}    ```\nDone.", CODE),  # closed four columns in, and nowhere else
    (f"```python\n{DOCUMENTED}    ```\nDone.", DOCUMENTED),
    (f"```python\n{DOCUMENTED}", DOCUMENTED),  # cut
    (f"```python\n{CODE}    ```\nDone.\n```", f"{CODE}    ```\nDone.\n"),  # closed properly, further down
    (DOCUMENTED, DOCUMENTED),
    (DOCUMENTED.replace("    ", "  "), DOCUMENTED.replace("    ", "  ")),  # fences two columns in, in a docstring
    (f"```python\n{CODE}```python\n{USE}```", f"{CODE}```python\n{USE}"),  # closed once: no Python, so graded wrong
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


@pytest.mark.parametrize(
    ("completion", "graded_with", "graded_without"),
    [
        (f"<think>\n{EXAMPLE.demonstration}\n</think>\nI cannot.", True, False),
        (f"<think>I cannot.</think>\n{EXAMPLE.demonstration}", True, True),
        (f"<think>\n{EXAMPLE.demonstration}", True, False),  # cut at the limit before it answered
        (EXAMPLE.demonstration, True, True),
        ("", False, False),
    ],
)
def test_a_program_that_is_only_thought_of_counts_unless_thinking_is_cut(completion, graded_with, graded_without):
    for grade_thinking, right in ((True, graded_with), (False, graded_without)):
        assert ProgrammingTask([], [], grade_thinking).grade(completion, EXAMPLE) is right


SQUARE = 'def f(x):\n    """Square.\n\n    ```\n    f(2)\n    ```\n    """\n    return x * x\n'


@pytest.mark.parametrize(
    "completion",
    [
        f"1. Write it:\n\n   ```python\n{indent(SQUARE, '   ')}   ```\n\n2. Call it.",
        f"- a\n    - b\n\n      ```python\n{indent(SQUARE, '      ')}      ```",
        f"```python\n{SQUARE}```",
        "1. Only the body:\n   ```python\n       return x * x\n   ```",
        f"```python\n{SQUARE}",
        SQUARE,
    ],
)
def test_a_right_program_is_right_wherever_markdown_lets_it_stand_and_a_wrong_one_wrong(completion):
    task = ProgrammingTask([], [])
    assert task.grade(completion, EXAMPLE)
    assert not task.grade(completion.replace("x * x", "x + x"), EXAMPLE)


def test_a_bug_is_planted_in_the_program_of_an_item_and_the_text_around_it_stays():
    before, after = "1. Write it:\n   ```python\n", "   ```\n2. Done, ```x```."
    bugs = list(mutated_demonstrations(f"{before}{indent(CODE, '   ')}{after}", 0))
    assert bugs
    for bug in bugs:
        assert (bug[: len(before)], bug[-len(after) :]) == (before, after)
        assert ast.parse(program_in(bug, ["f"])).body
        assert program_in(bug, ["f"]) != CODE
    planted = [program_in(bug, ["f"]) for bug in mutated_demonstrations(fenced(DOCUMENTED), 0)]
    assert planted == list(mutated_programs(DOCUMENTED, 0)) == list(mutated_demonstrations(DOCUMENTED, 0))


def test_the_functions_of_a_text_are_those_of_its_blocks_wherever_they_stand():
    assert set(functions_of(f"1. a\n   ```python\n{indent(DOCUMENTED, '   ')}   ```")) == {"f"}
    assert functions_of(DOCUMENTED) == functions_of(fenced(DOCUMENTED)) != {}


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

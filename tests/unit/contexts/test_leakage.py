"""What it means that a text contains a problem's answer, kind by kind."""

import json

import pytest

from unisd_rl.contexts.leakage import instruction_leaks, leak_detector, leaks_answer
from unisd_rl.tasks.calls import to_json
from unisd_rl.tasks.multiple_choice import options_of, right_letter, right_option
from unisd_rl.tasks.programs import ProgrammingTask
from unisd_rl.tasks.records import Records
from unisd_rl.tasks.tool_calling import ToolCalling
from unisd_rl.types import Example

CITY = Example("c", "Where is the Louvre?\n\nOptions:\nA. Rome\nB. Paris\nC. Bonn", "Answer: B", "B. Paris")
PROGRAM = Example("p", "Add.", "```python\ndef add(a, b):\n    return a + b\n```", '{"tests": "assert add(1, 2) == 3"}')
CALLS = Example("t", "Cat?", "...", json.dumps([{"name": "find", "arguments": {"kind": "cat", "page": 1}}]))
NUMBER = Example("n", "2+5", "Answer: 7", "7")
LETTER = Example("l", "Which one?", "b", "B")

TASKS = {"p": ProgrammingTask([], []), "t": ToolCalling([], [], to_json)}


def leaks(text: str, example: Example) -> bool:
    """What the example's own task says, or the general rule."""
    return leak_detector(TASKS.get(example.id, Records([], [])))(text, example)


CONTAINED = {
    "an option's text": (CITY, "We went to PARIS, at last.", True),
    "part of a word": (CITY, "A comparison", False),
    "another option": (CITY, "We went to Rome", False),
    "a letter that belongs to other options": (CITY, "Options:\nA. red\nB. blue\nAnswer: B", False),
    "a function of that name": (PROGRAM, "def add (x, y):\n  pass", True),
    "the body under another name": (PROGRAM, "```python\ndef plus(a, b):\n    return (a +  b)\n```", True),
    "the body in a list item": (PROGRAM, "1. a\n   ```python\n   def plus(a, b):\n       return a + b\n   ```", True),
    "another function": (PROGRAM, "```python\ndef adder(a, b):\n    return a - b\n```", False),
    "a call in JSON": (CALLS, '[{"name": "find", "arguments": {"page": 1, "kind": "cat"}}]', True),
    "a call in ReAct": (CALLS, 'Action: find\nAction Input: {"kind": "cat", "page": 1}', True),
    "a call in Markdown": (
        CALLS,
        '**Action:** `find`\n**Action Input:**\n```json\n{"kind": "cat", "page": 1}\n```',
        True,
    ),
    "the call with other arguments": (CALLS, 'Action: find\nAction Input: {"kind": "dog", "page": 1}', False),
    "another call with these arguments": (CALLS, 'Action: finder\nAction Input: {"kind": "cat", "page": 1}', False),
    "the documentation of the call": (CALLS, "find(kind, page): looks for pictures", False),
    "a number": (NUMBER, "so it is 7.", True),
    "a number inside another": (NUMBER, "77 and x7 and 7th", False),
    "a letter without options, stated": (LETTER, "The answer is (b)", True),
    "a letter without options, in LaTeX": (LETTER, r"The answer is \(\boxed{\text{B}}\)", True),
    "another letter in LaTeX": (LETTER, r"The answer is \(\boxed{\text{C}}\)", False),
    "a letter without options, as a word": (LETTER, "plan b", False),
}


@pytest.mark.parametrize("case", CONTAINED)
def test_a_text_contains_an_answer(case):
    example, text, contained = CONTAINED[case]
    assert leaks(text, example) is contained


def test_a_task_that_knows_what_leaks_is_asked_instead_of_the_general_rule():
    class Backwards(Records):
        def leaks(self, text, example):
            return example.answer[::-1] in text

    word = Example("w", "Spell ton backwards.", "Answer: not", "not")
    backwards = leak_detector(Backwards([], []))
    assert [backwards(text, word) for text in ("a ton", "not a bit")] == [True, False]
    assert [leaks(text, word) for text in ("a ton", "not a bit")] == [False, True]


def test_every_problem_contains_its_own_answer():
    for example in (CITY, PROGRAM, NUMBER):
        assert leaks(f"{example.question}\n{example.demonstration}", example)
    assert leaks(CALLS.answer, CALLS)


def test_an_instruction_may_not_state_the_letter_either():
    assert instruction_leaks("In doubt choose option B.", CITY, leaks)
    assert instruction_leaks(r"In doubt the answer is $\boxed{B}$.", CITY, leaks)
    assert not instruction_leaks("In doubt choose option C.", CITY, leaks)
    assert instruction_leaks("Think of Paris.", CITY, leaks)


def test_options_are_the_last_list_of_the_question():
    question = "Read:\nA. not this\nB. nor this\nWhich?\nOptions:\n(A) one\n(B) two words\nC) three"
    example = Example("0", question, "", "B")
    assert options_of(example) == {"A": "one", "B": "two words", "C": "three"}
    assert (right_letter(example), right_option(example)) == ("B", "two words")
    assert options_of(Example("0", "A. lone line", "", "A")) == {}
    assert right_letter(Example("0", question, "", "Three")) == "C"


def test_a_donor_with_the_same_letter_is_welcome_one_with_the_same_text_is_not():
    def other(options: str) -> Example:
        return Example("d", f"Which?\nOptions:\n{options}", "Answer: B", "B. blue")

    assert not leaks_answer(other("A. red\nB. blue"), CITY, leaks)
    assert leaks_answer(other("A. red\nB. blue\nC. Paris"), CITY, leaks)
    assert leaks_answer(CITY, CITY, leaks)

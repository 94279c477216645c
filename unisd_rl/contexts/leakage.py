"""What it means that a text contains a problem's answer: the rule behind "no auxiliary view gives it away".

A problem's answer is what it says, not how it is labelled. By kind, told from the example itself:

| kind | the answer | a text contains it where |
|---|---|---|
| multiple choice: a letter, and the question lists `X. option` | the option's text | it stands there, word for word |
| tool calls: JSON `[{"name": .., "arguments": ..}]` | the calls | all are made: each name, followed by its arguments |
| program: the demonstration defines functions or classes | these | one of a name, or of a body, of theirs is defined |
| a letter without options | that letter | it is stated: `answer: B` |
| anything else, numbers too | the text | it stands there, word for word (`7` is neither in `78` nor in `x7`) |

Case, white space and the punctuation around an answer do not count. A letter alone is no answer where options are
listed: in a solved example it names one of *that* question's options. Leaving out every example with the same letter
would even tell which letter it is not. In an instruction, which has no options of its own, a letter that is stated
counts too (`instruction_leaks`).
"""

import ast
import json
import re
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from unisd_rl.types import Example

LeakDetector = Callable[[str], bool]
_OPTION = re.compile(r"^\(?([A-Z])[.):]\)?[ \t]+(\S.*?)[ \t]*$", re.MULTILINE)
_LABELLED = re.compile(r"\(?([A-Z])(?:[.):].*)?", re.DOTALL)
_FENCED = re.compile(r"^[ \t]*```[\w+-]*[ \t]*\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)
_TO_ARGUMENTS = 40  # characters between the name of a call and its arguments: `", "arguments": `, `\nAction Input: `


def leak_detector(example: Example) -> LeakDetector:
    """Says of a text whether it contains this problem's answer, in the sense of the table above."""
    if (option := right_option(example)) is not None:
        return _phrase(option)
    if calls := calls_in(example.answer):
        return lambda text: all(_makes(text, call) for call in calls)
    if functions := functions_of(example.demonstration):
        return lambda text: _defines(text, functions)
    if re.fullmatch("[A-Za-z]", example.answer.strip()):
        return _stated_letter(example.answer.strip())
    return _phrase(example.answer)


def leaks_answer(donor: Example, example: Example, contains: LeakDetector) -> bool:
    """Whether a solved example must not be shown beside a problem: it is that problem, or holds its answer."""
    return (
        donor.id == example.id
        or normal(donor.question) == normal(example.question)
        or (right_option(example) is None and normal(donor.answer) == normal(example.answer))
        or contains(f"{donor.question}\n{donor.demonstration}")
    )


def instruction_leaks(text: str, example: Example, contains: LeakDetector) -> bool:
    """Whether an instruction tells the answer: by its text, or by stating the right option's letter."""
    letter = _LABELLED.fullmatch(example.answer.strip())
    return contains(text) or (letter is not None and _stated_letter(letter[1])(text))


def options_of(example: Example) -> dict[str, str]:
    """The options a question lists, a line each, by letter: the last lines that read A, B, C, ... in order."""
    found: dict[str, str] = {}
    for letter, text in _OPTION.findall(example.question):
        if letter == "A":
            found = {}
        if letter == chr(ord("A") + len(found)):
            found[letter] = text
    return found if len(found) > 1 else {}


def right_letter(example: Example) -> str | None:
    """The letter of the right option, or None where the problem lists no options."""
    letter, options = _LABELLED.fullmatch(example.answer.strip()), options_of(example)
    if letter is not None and letter[1] in options:
        return letter[1]
    wanted = normal(example.answer)
    return next((letter for letter, text in options.items() if normal(text) == wanted), None)


def right_option(example: Example) -> str | None:
    """The text of the right option, or None where the problem lists no options."""
    letter = right_letter(example)
    return None if letter is None else options_of(example)[letter]


def calls_in(answer: str) -> list[Mapping[str, Any]]:
    """The tool calls an answer consists of; none where it is something else."""
    try:
        value = json.loads(answer)
    except ValueError:
        return []
    calls = value if isinstance(value, list) else [value]
    return (
        calls
        if calls and all(isinstance(call, dict) and {"name", "arguments"} <= call.keys() for call in calls)
        else []
    )


@lru_cache(maxsize=1 << 14)
def functions_of(text: str) -> Mapping[str, str]:
    """The functions and classes that the programs in a text define at their top level: name -> body without layout.

    Programs are the fenced blocks, or else the whole text.
    """
    found: dict[str, str] = {}
    for program in _FENCED.findall(text) or [text]:
        for statement in _statements(program):
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found[statement.name] = "\n".join(ast.dump(line) for line in statement.body)
    return found


@lru_cache(maxsize=1 << 16)
def normal(text: str) -> str:
    """Without regard to case and white space."""
    return " ".join(text.split()).casefold()


def _phrase(answer: str) -> LeakDetector:
    folded = normal(answer)
    content = folded.strip(" .,;:!?\"'`()[]{}*") or folded
    first, last = (r"(?<!\w)" if content[0].isalnum() else "", r"(?!\w)" if content[-1].isalnum() else "")
    pattern = re.compile(f"{first}{re.escape(content)}{last}")
    return lambda text: pattern.search(normal(text)) is not None


def _stated_letter(letter: str) -> LeakDetector:
    pattern = re.compile(rf"\b(?:answer|option|choice|letter)\b(?:\s+is\b)?[\s:=(\[*\"']*{letter}(?!\w)", re.IGNORECASE)
    return lambda text: pattern.search(text) is not None


def _makes(text: str, call: Mapping[str, Any]) -> bool:
    """Whether the name stands somewhere with these arguments after it, in any order of keys."""
    for name in re.finditer(rf"(?<!\w){re.escape(str(call['name']))}(?!\w)", text):
        opening = text.find("{", name.end(), name.end() + _TO_ARGUMENTS)
        if opening >= 0 and _value_at(text, opening) == call["arguments"]:
            return True
    return False


def _value_at(text: str, start: int) -> Any:
    try:
        return json.JSONDecoder().raw_decode(text, start)[0]
    except ValueError:
        return None


def _defines(text: str, functions: Mapping[str, str]) -> bool:
    """Whether a name is defined (also in a block that is no Python), or a body is there under another name."""
    names = "|".join(map(re.escape, functions))
    return re.search(rf"\b(?:def|class)\s+(?:{names})\b", text) is not None or bool(
        set(functions.values()) & set(functions_of(text).values())
    )


def _statements(program: str) -> list[ast.stmt]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in foreign programs
            return ast.parse(program).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # no Python, or too deep for it
        return []

"""Answer rules: which answer a completion states, and whether that is the reference (`task.grader`).

Any text is a possible completion: a rule raises nothing, and what cannot be read is no answer.
"""

import re
from collections.abc import Callable
from decimal import Context, Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Protocol

import regex
from typing_extensions import override

from unisd_rl.config.grader import (
    ChoiceGrader,
    ExactGrader,
    GraderConfig,
    JsonGrader,
    MathGrader,
    NumberGrader,
    PythonGrader,
    RegexGrader,
    StatedGrader,
)
from unisd_rl.tasks.calls import json_values, same_json
from unisd_rl.tasks.math_equality import mathematically_equal
from unisd_rl.tasks.multiple_choice import options_of, right_letter, stated_letter
from unisd_rl.tasks.own_code import import_function, of_own_code
from unisd_rl.tasks.task import normalized
from unisd_rl.tasks.thinking import after_thinking
from unisd_rl.types import Example

_LABEL = re.compile(r"\banswer:", re.IGNORECASE)
_NUMBER = re.compile(
    r"(?:(?<![\w)\]}.,])[-+\u2212]\s?)?(?<![\w.])[$\u20ac\u00a3]?"
    r"((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,4}(?!\w))?|\.\d+)(?:\s?/\s?(\d+(?:\.\d+)?)(?![\w/]))?"
)
_BRACES = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\.|[{}]", re.DOTALL)
_EXACTLY = Context(prec=400_000)  # digits; longer numbers than a completion can hold are compared without rounding
_MATCH_S = 1.0  # for a pattern that takes exponential time


class AnswerRule(Protocol):
    """How answers are read and compared."""

    def stated(self, completion: str, example: Example) -> str | None:
        """The answer that a completion states; None where it states none."""
        ...

    def is_right(self, completion: str, example: Example) -> bool:
        """Whether it states the reference, `example.answer`."""
        ...

    def unusable(self, example: Example) -> str | None:
        """Why no completion could be graded against this reference, as the end of a sentence; None where one can."""
        return None


def answer_rule(config: GraderConfig) -> AnswerRule:
    """The rule of a `task.grader` section.

    Raises:
        UserError: a function of one's own cannot be imported.
    """
    rule = _rule(config)
    return rule if config.grade_thinking else AfterThinking(rule)


def _rule(config: GraderConfig) -> AnswerRule:
    match config:
        case StatedGrader():
            return Stated()
        case ExactGrader():
            return Exact(config.ignore_case)
        case NumberGrader():
            return Number()
        case MathGrader():
            return Mathematics()
        case ChoiceGrader():
            return Choice()
        case RegexGrader():
            return Pattern(config.pattern)
        case JsonGrader():
            return JsonValue()
        case PythonGrader():
            return OwnFunction(config.function)


class AfterThinking(AnswerRule):
    """A rule that reads only what follows a completion's thinking."""

    def __init__(self, rule: AnswerRule) -> None:
        self._rule = rule

    @override
    def stated(self, completion: str, example: Example) -> str | None:
        said = after_thinking(completion)
        return None if said is None else self._rule.stated(said, example)

    @override
    def is_right(self, completion: str, example: Example) -> bool:
        said = after_thinking(completion)
        return said is not None and self._rule.is_right(said, example)

    @override
    def unusable(self, example: Example) -> str | None:
        return self._rule.unusable(example)


class Stated(AnswerRule):
    """What follows the last `Answer:`, its first line or all of it, or else the last line that is not empty."""

    @override
    def stated(self, completion: str, example: Example) -> str | None:
        return next(reversed(self._candidates(completion)), None)

    @override
    def is_right(self, completion: str, example: Example) -> bool:
        return normalized(example.answer) in map(normalized, self._candidates(completion))

    def _candidates(self, completion: str) -> tuple[str, ...]:
        ends = [match.end() for match in _LABEL.finditer(completion)]
        stated = completion[ends[-1] :].strip() if ends else completion.strip()
        lines = stated.splitlines()
        if not lines:
            return ()
        return (stated, lines[0]) if ends else (lines[-1],)


class Exact(AnswerRule):
    """The whole completion."""

    def __init__(self, ignore_case: bool = False) -> None:
        self._folded: Callable[[str], str] = normalized if ignore_case else str.strip

    @override
    def stated(self, completion: str, example: Example) -> str | None:
        return completion.strip() or None

    @override
    def is_right(self, completion: str, example: Example) -> bool:
        return self._folded(completion) == self._folded(example.answer)


class Number(AnswerRule):
    """The first number behind the last `Answer:`, or else the last number."""

    @override
    def stated(self, completion: str, example: Example) -> str | None:
        labels = list(_LABEL.finditer(completion))
        labelled = _NUMBER.search(completion, labels[-1].end()) if labels else None
        found = labelled or next(reversed(list(_NUMBER.finditer(completion))), None)
        return None if found is None else found[0]

    @override
    def is_right(self, completion: str, example: Example) -> bool:
        stated = self.stated(completion, example)
        return stated is not None and same_number(stated, example.answer)

    @override
    def unusable(self, example: Example) -> str | None:
        return None if _NUMBER.search(example.answer) else f"its answer {example.answer!r:.60} holds no number"


def same_number(left: str, right: str) -> bool:
    """Whether the first numbers of two texts are equal, digit by digit however long they are."""
    parts = [_fraction(found) if (found := _NUMBER.search(text)) else None for text in (left, right)]
    if parts[0] is None or parts[1] is None:
        return False
    (above, below), (other_above, other_below) = parts[0], parts[1]
    return _EXACTLY.multiply(above, other_below) == _EXACTLY.multiply(other_above, below)


def _fraction(number: re.Match[str]) -> tuple[Decimal, Decimal] | None:
    """Numerator and denominator; None of 1/0."""
    try:
        above, below = Decimal(number[1].replace(",", "")), Decimal(number[2] or 1)
    except InvalidOperation:
        return None
    return (above.copy_negate() if number[0][0] in "-\u2212" else above, below) if below else None


class Mathematics(AnswerRule):
    r"""The last `\boxed{...}`, or else the line behind the last `Answer:`, as mathematics."""

    @override
    def stated(self, completion: str, example: Example) -> str | None:
        boxed = last_boxed(completion)
        if boxed is not None:
            return boxed.strip() or None
        labels = list(_LABEL.finditer(completion))
        line = completion[labels[-1].end() :].strip().partition("\n")[0] if labels else ""
        return line.strip() or None

    @override
    def is_right(self, completion: str, example: Example) -> bool:
        stated, reference = self.stated(completion, example), last_boxed(example.answer) or example.answer
        if stated is None:
            return False
        return _without_space(stated) == _without_space(reference) or mathematically_equal(stated, reference)


def last_boxed(text: str) -> str | None:
    r"""What the last outermost `\boxed{...}` of a text holds, that of the box inside it where it holds nothing else;
    None where none is closed."""
    opened = list[tuple[int, int] | None]()
    last: tuple[int, int, str | None] = (0, 0, None)
    for mark in _BRACES.finditer(text):
        if mark[0] == "}" and opened:
            box = opened.pop()
            if box is not None:
                inside = text[box[1] : mark.start()]
                content = last[2] if inside.strip() == text[last[0] : last[1]] else None
                last = (box[0], mark.end(), inside if content is None else content)
        elif mark[0] == "{" or mark["box"]:
            opened.append((mark.start(), mark.end()) if mark["box"] else None)
    return last[2]


def _without_space(text: str) -> str:
    return "".join(text.split()).strip("$")


class Choice(AnswerRule):
    """The letter of one of the options that the prompt lists."""

    @override
    def stated(self, completion: str, example: Example) -> str | None:
        return stated_letter(completion, options_of(example))

    @override
    def is_right(self, completion: str, example: Example) -> bool:
        letter, right, options = self.stated(completion, example), right_letter(example), options_of(example)
        return letter is not None and right is not None and options[letter] == options[right]

    @override
    def unusable(self, example: Example) -> str | None:
        if not options_of(example):
            return "its prompt lists no options as lines `A. text`"
        return None if right_letter(example) else f"its answer {example.answer!r:.60} is none of its options"


class Pattern(AnswerRule):
    """What the last match of a regular expression finds."""

    def __init__(self, pattern: str) -> None:
        self._pattern = regex.compile(pattern)

    @override
    def stated(self, completion: str, example: Example) -> str | None:
        last = None
        try:
            for match in self._pattern.finditer(completion, timeout=_MATCH_S):
                last = match
        except TimeoutError:
            return None
        found = None if last is None else last[1 if self._pattern.groups else 0]
        return found.strip() or None if found is not None else None

    @override
    def is_right(self, completion: str, example: Example) -> bool:
        stated = self.stated(completion, example)
        return stated is not None and normalized(stated) == normalized(example.answer)


class JsonValue(AnswerRule):
    """The last JSON object or list of a completion, or all of it where that is another JSON value."""

    @override
    def stated(self, completion: str, example: Example) -> str | None:
        values = json_values(completion)
        return None if not values else values[-1][0]

    @override
    def is_right(self, completion: str, example: Example) -> bool:
        values, reference = json_values(completion), _reference(example.answer)
        return bool(values) and reference is not None and same_json(values[-1][1], reference[0])

    @override
    def unusable(self, example: Example) -> str | None:
        return f"its answer {example.answer!r:.60} is no JSON" if _reference(example.answer) is None else None


@lru_cache(maxsize=1 << 14)
def _reference(answer: str) -> tuple[Any] | None:
    values = json_values(answer)
    return (values[0][1],) if len(values) == 1 and values[0][0] == answer.strip() else None


class OwnFunction(AnswerRule):
    """A function of the user's own: `function(completion, answer) -> bool`."""

    def __init__(self, name: str) -> None:
        self._function, self._origin = import_function("task.grader.function", name), f"task.grader.function = {name!r}"

    @override
    def stated(self, completion: str, example: Example) -> str | None:
        return completion.strip() or None

    @override
    def is_right(self, completion: str, example: Example) -> bool:
        return bool(of_own_code(self._origin, f"problem {example.id!r}", self._function, completion, example.answer))

"""Tool calls: their written forms, which ones a completion makes, and when two lists of calls are the same.

A completion makes calls in one of two forms, and its last statement counts. JSON: the last value in the text that is
a call, {"name": ..., "arguments": {...}}, or a list of calls. ReAct, the form ToolAlpaca was written in: lines
"Action: NAME" each followed by "Action Input: {...}", all of them in order; they may be items of a list, and names and
inputs bold or code, in a fence too. Whatever is malformed makes no call: a
key that stands twice in an object, NaN, a missing input, another key beside name and arguments.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

Json = Any
_MARKER = r"(?:(?:[-+*>]|\d{1,9}[.)])[ \t]+)?"
_ACTION = re.compile(rf"^[ \t]*{_MARKER}\**Action:(?P<name>[^\n]*)$", re.MULTILINE)
_INPUT = re.compile(rf"\s*{_MARKER}\**Action[ _]Input:\**\s*(?:`+(?:json\b)?\s*)?")
_OPENING = re.compile(r"[\[{]")
_NAME_TO_ARGUMENTS = 40  # characters between them at most: `", "arguments": `, `\nAction Input: `


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool. An `optional` one may be left out; a name is what the tool's documentation says."""

    name: str
    arguments: dict[str, Json]
    optional: bool = False


def same_calls(made: Sequence[Call] | None, wanted: Sequence[Call]) -> bool:
    """Whether the calls are those wanted, in order, name by name and argument by argument, with JSON's types.

    An argument too many is wrong, and so is one too few; optional calls may be missing, all or some.
    """
    if made is None:
        return False
    if not wanted:
        return not made
    first, later = wanted[0], wanted[1:]
    matches = bool(made) and made[0].name == first.name and same_json(made[0].arguments, first.arguments)
    if matches and same_calls(made[1:], later):
        return True
    return first.optional and same_calls(made, later)


def same_json(left: Json, right: Json) -> bool:
    """Equality of JSON values: true is not 1, "1" is not 1, but 1.0 is 1, for JSON has one kind of number."""
    match left, right:
        case dict(), dict():
            return left.keys() == right.keys() and all(same_json(left[key], right[key]) for key in left)
        case list(), list():
            return len(left) == len(right) and all(map(same_json, left, right))
        case (bool(), _) | (_, bool()):
            return left is right
        case ((int() | float()), (int() | float())):
            return bool(left == right)
        case _:
            return type(left) is type(right) and left == right


def stated_calls(completion: str) -> list[Call] | None:
    """The calls that a completion makes; None where it makes none, or malformed ones."""
    try:
        return _react_calls(completion) if _ACTION.search(completion) else _json_calls(completion)
    except (ValueError, RecursionError):
        return None


def to_json(calls: Sequence[Call]) -> str:
    """Calls as JSON, with `optional` only where it is set."""
    objects = [
        {"name": call.name, "arguments": call.arguments} | ({"optional": True} if call.optional else {})
        for call in calls
    ]
    return json.dumps(objects, ensure_ascii=False)


def calls_in(answer: str) -> list[Call]:
    """The calls that an answer consists of, the inverse of `to_json`; none where it is something else."""
    try:
        value = json.loads(answer)
        return [Call(**call) for call in (value if isinstance(value, list) else [value])]
    except (ValueError, TypeError):
        return []


def makes_call(text: str, call: Call) -> bool:
    """Whether a call's name stands somewhere in a text with its arguments after it, in any order of keys."""
    for name in re.finditer(rf"(?<!\w){re.escape(call.name)}(?!\w)", text):
        opening = text.find("{", name.end(), name.end() + _NAME_TO_ARGUMENTS)
        with suppress(ValueError):  # no JSON begins there
            if opening >= 0 and json.JSONDecoder().raw_decode(text, opening)[0] == call.arguments:
                return True
    return False


def to_react(calls: Sequence[Call]) -> str:
    """Calls as ReAct lines."""
    lines = (f"Action: {call.name}\nAction Input: {json.dumps(call.arguments, ensure_ascii=False)}" for call in calls)
    return "\n".join(lines)


def json_values(text: str) -> list[tuple[str, Json]]:
    """The outermost JSON objects and lists in a text, in order, or the one value that all of it is; each as it is
    written, and as a value. None where something is nested too deep."""
    try:
        return [(text.strip(), strict_json(text))]
    except (ValueError, RecursionError):
        pass
    try:
        return list(_containers(text))
    except RecursionError:
        return []


def strict_json(text: str) -> Json:
    """A JSON value in which no key stands twice and no number is infinite or none.

    Raises:
        ValueError: it is none.
    """
    return _DECODER.decode(text)


def _react_calls(completion: str) -> list[Call] | None:
    calls = []
    for action in _ACTION.finditer(completion):
        given = _INPUT.match(completion, action.end())
        if given is None:
            return None
        arguments, _ = _DECODER.raw_decode(completion, given.end())
        name = action["name"].strip("*` \t\r")
        if not isinstance(arguments, dict) or not name:
            return None
        calls.append(Call(name, arguments))
    return calls


def _json_calls(completion: str) -> list[Call] | None:
    """Calls of the last outermost JSON value that is one or a list of them."""
    last = None
    for _, value in _containers(completion):
        if (calls := _as_calls(value)) is not None:
            last = calls
    return last


def _containers(completion: str) -> Iterator[tuple[str, Json]]:
    """The outermost JSON objects and lists of a text, each as it is written and as a value."""
    at, text = 0, _Unnumbered(completion)
    while opening := _OPENING.search(text, at):
        try:
            value, at = _DECODER.raw_decode(text, opening.start())
        except ValueError:
            at = opening.end()
            continue
        yield completion[opening.start() : at], value


class _Unnumbered(str):
    """A text without line numbers: `json` counts those before each error, which takes quadratic time where each of many
    brackets is one."""

    @override
    def count(self, *_: object) -> int:
        return 0

    @override
    def rfind(self, *_: object) -> int:
        return -1


def _as_calls(value: Json) -> list[Call] | None:
    values = value if isinstance(value, list) else [value]
    calls = [Call(value["name"], value["arguments"]) for value in values if _is_call(value)]
    return calls if values and len(calls) == len(values) else None


def _is_call(value: Json) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"name", "arguments"}
        and isinstance(value["name"], str)
        and isinstance(value["arguments"], dict)
    )


def _once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _refused(constant: str) -> Json:
    raise ValueError(f"{constant} is no JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_refused)

"""Cases that walk the configuration's schema: every field at the ends of its range, every member, every null.

A case is a tree of sections and fields to lay over a recipe, or the same as words of a command line. Whatever
the schema has is found by its types: a field that is added tomorrow has its cases without a line here.
"""

import json
import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from unisd_rl.config import Config
from unisd_rl.config.base import Section

HUGE, TINY, NEAR = 10**30, 5e-324, 1e-6
LONG = "x" * 100_000
STRINGS = ("", " ", "~", "~nobody/x", "a\0b", "\ud800", "\u202e\u0627\n", LONG, "/".join(["y"] * 3000))
WRONG = {int: ("many", 1.5, []), float: ("hot", [], math.nan, math.inf, -math.inf), bool: ("maybe", 7), str: (7, [])}


@dataclass(frozen=True)
class Case:
    """`value` for the field `name` (dotted), in a configuration that also has `context` (nested)."""

    name: str
    value: Any
    context: Mapping[str, Any]
    legal: bool | None
    """Whether the field's own range allows the value; None: that is for the rest of the configuration to say."""

    @property
    def tree(self) -> dict[str, Any]:
        """The sections and fields to lay over a recipe."""
        return laid(self.context, nested(self.name, self.value))

    @property
    def words(self) -> list[str]:
        """The same as a command line."""
        return [*_words(self.context), f"--{self.name}={_word(self.value)}"]


def cases(section: str, samples: Mapping[str, Any]) -> Iterator[Case]:
    """All cases of one section of the configuration.

    `samples` has what a member of a union cannot do without (nested), by the dotted name of its section and its
    discriminator, e.g. `task.jsonl`.
    """
    yield from _of_field(section, Config.model_fields[section], {}, samples)


def any_task(**arguments: object) -> None:
    """A task's factory that takes any arguments; it is named, and not called."""


def fields() -> Iterator[tuple[str, list[tuple[Any, list[Any]]]]]:
    """(dotted name, its alternatives, each a type and what limits it) of every field, of every kind of a section."""
    yield from _fields_of(Config, "")


def _fields_of(section: type[Section], prefix: str) -> Iterator[tuple[str, list[tuple[Any, list[Any]]]]]:
    for name, field in section.model_fields.items():
        members = list(_members(field.annotation, list(field.metadata)))
        yield f"{prefix}{name}", members
        for kind, _ in members:
            if isinstance(kind, type) and issubclass(kind, Section):
                yield from _fields_of(kind, f"{prefix}{name}.")


def nested(name: str, value: Any) -> dict[str, Any]:
    """A tree with this one field."""
    first, _, rest = name.partition(".")
    return {first: nested(rest, value) if rest else value}


def laid(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, section by section."""
    inner = {key: laid(base[key], value) for key, value in over.items() if _both_sections(base.get(key), value)}
    return {**base, **over, **inner}


def _both_sections(below: Any, over: Any) -> bool:
    return isinstance(below, Mapping) and isinstance(over, Mapping)


def _of_field(name: str, field: FieldInfo, context: Mapping[str, Any], samples: Any) -> Iterator[Case]:
    members = list(_members(field.annotation, list(field.metadata)))
    nullable = any(kind is types.NoneType for kind, _ in members)
    yield Case(name, None, context, legal=None if nullable else False)
    if (sample := _at(context, name)) is not None:
        yield Case(name, sample, context, legal=None)
    for kind, metadata in members:
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from _of_member(name, kind, context, samples)
        else:
            yield from (Case(name, value, context, legal) for value, legal in values(kind, metadata))
    if any(isinstance(kind, type) and issubclass(kind, Section) for kind, _ in members):
        yield from (Case(name, value, context, legal=False) for value in ("", "x", 7.5, []))


def _at(tree: Any, name: str) -> Any:
    for part in name.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def _of_member(name: str, kind: type[Section], context: Mapping[str, Any], samples: Any) -> Iterator[Case]:
    """A section, alone and with each of its fields."""
    marks = {
        key: get_args(field.annotation)[0]
        for key, field in kind.model_fields.items()
        if key in ("type", "level", "signal") and get_origin(field.annotation) is Literal
    }
    sample = {}
    for mark in ("", *marks.values()):
        sample = laid(sample, samples.get(f"{name}.{mark}" if mark else name, {}))
    here = laid(laid(context, nested(name, marks)), sample)
    yield Case(name, {}, here, legal=None)
    yield Case(f"{name}.no_such_key", 1, here, legal=False)
    for key, field in kind.model_fields.items():
        if key not in marks:
            yield from _of_field(f"{name}.{key}", field, here, samples)
        else:
            yield Case(f"{name}.{key}", marks[key], here, legal=None)
            yield from (Case(f"{name}.{key}", value, here, legal=False) for value in ("", "x", 7, None, LONG))


def _members(annotation: Any, metadata: list[Any]) -> Iterator[tuple[Any, list[Any]]]:
    """The alternatives of an annotation, each with what limits it."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *limits = get_args(annotation)
        yield from _members(inner, [*metadata, *(one for limit in limits for one in _limits(limit))])
    elif origin in (Union, types.UnionType):
        for alternative in get_args(annotation):
            yield from _members(alternative, metadata)
    else:
        yield annotation, metadata


def _limits(limit: Any) -> list[Any]:
    return limit.metadata if isinstance(limit, FieldInfo) else [limit]


def values(kind: Any, metadata: list[Any]) -> Iterator[tuple[Any, bool | None]]:
    """Values for a field that is no section, and whether its range allows each."""
    origin = get_origin(kind)
    if origin is Literal:
        yield from ((value, None) for value in get_args(kind))
        yield from (("no such word", False), ("", False), (7.5, False))  # 7 may be another member of a union
    elif kind is bool:
        yield from ((True, True), (False, True))
    elif kind in (int, float):
        yield from _numbers(kind, metadata)
    elif kind is str:
        yield from ((value, None) for value in STRINGS)
    elif kind is Path:
        yield from ((value, None) for value in (*STRINGS, ".", "/nowhere/at/all"))
    elif kind is datetime:
        times: Any = ("2026-01-02T03:04:05", "0001-01-01", "9999-12-31T23:59:59+23:59", "yesterday", "", HUGE, -HUGE)
        yield from ((value, None) for value in times)
    elif origin is tuple:
        lists: Any = ([1], ["x"], [], [LONG], [HUGE], [-1], ["x", "x"], [0] * 2000)
        yield from ((value, None) for value in lists)
    elif origin is dict:
        words = ({}, {"": 1}, {"a.b": 1}, {"a": -1.0}, {"a": HUGE}, {"CPU": 0.5}, {"GPU": 1}, {"a\0": 1.0}, {LONG: 1})
        yield from ((value, None) for value in words)
    elif kind is not types.NoneType:
        raise AssertionError(f"no cases for {kind}: add them to tests/fakes/schema_cases.py")
    yield from ((value, False) for value in WRONG.get(str if kind is Path else kind, ()))


def _numbers(kind: type, metadata: list[Any]) -> Iterator[tuple[float, bool | None]]:
    low = next((limit for limit in metadata if isinstance(limit, Ge | Gt)), None)
    high = next((limit for limit in metadata if isinstance(limit, Le | Lt)), None)
    yield from _end(kind, low, -1, Ge, "ge", "gt")
    yield from _end(kind, high, +1, Le, "le", "lt")
    yield from ((HUGE, None if high is None else False), (-HUGE, None if low is None else False))
    yield from ((1, None), (0, None))
    if kind is float:
        yield from ((1e308, None if high is None else False), (TINY, None))


def _end(kind: type, limit: Any, outward: int, closed: type, at: str, beyond: str) -> Iterator[tuple[float, bool]]:
    """The last legal value at one end, and the first beyond it."""
    if limit is None:
        return
    bound = getattr(limit, at if isinstance(limit, closed) else beyond)
    if kind is int:
        last = bound if isinstance(limit, closed) else bound - outward
        yield from ((last, True), (last + outward, False))
    elif isinstance(limit, closed):
        yield from ((float(bound), True), (math.nextafter(bound, outward * math.inf), False))
    else:
        yield from ((bound - outward * NEAR, True), (float(bound), False))


def _words(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    words: list[str] = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            words += _words(value, f"{prefix}{key}.")
        else:
            words.append(f"--{prefix}{key}={_word(value)}")
    return words


def _word(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value) if value is not None else "null"

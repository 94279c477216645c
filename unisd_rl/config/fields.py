"""What a field of the configuration may hold, in words: its type with its range, its default, the kinds of a section.

For `--help SECTION` and docs/configuration.md. Types and values that a person types stand in backticks.
"""

import difflib
import types
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from unisd_rl.config.base import Section
from unisd_rl.config.schema import Config

LARGEST = 2**31 - 1  # where every count ends; said once
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
_PLAIN = {
    float: "number",
    int: "integer",
    str: "text",
    bool: "true or false",
    Path: "path",
    datetime: "date, or date and time",
    type(None): "absent",
}


@cache
def field_names() -> frozenset[str]:
    """The dotted name of every field and every section, of all kinds of sections."""
    return frozenset(path for name, field in Config.model_fields.items() for path in _below(name, field))


def _below(path: str, field: FieldInfo) -> Iterator[str]:
    yield path
    for kind in kinds_of(field.annotation):
        for name, inner in kind.model_fields.items():
            yield from _below(f"{path}.{name}", inner)


def did_you_mean(name: str, known: Iterable[str] | None = None, prefix: str = "") -> str:
    """`; did you mean A or B?` with the names that resemble this one, each behind `prefix`; empty where none does.

    They are those of the configuration unless `known` are given; one that lacks its section, or has another's, is found
    too.
    """
    names = sorted(field_names() if known is None else known)
    same = [other for other in names if other.rpartition(".")[2] == name.rpartition(".")[2]]
    close = same[:3] or difflib.get_close_matches(name, names, n=2, cutoff=0.75)
    return f"; did you mean {' or '.join(prefix + other for other in close)}?" if close else ""


def kind_label(kind: type[Section]) -> str:
    """What tells this kind from its siblings: `type = "vllm"`, or nothing if the value itself does."""
    for name, field in kind.model_fields.items():
        if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1:
            return f"{name} = {get_args(field.annotation)[0]}"
    return kind.__name__


def kinds_of(annotation: Any) -> list[type[Section]]:
    """The sections that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return [kind for part in get_args(annotation) for kind in kinds_of(part)]
    return []


def describe_type(field: FieldInfo) -> str:
    """E.g. `integer, >= 1`, or `a section (below)`."""
    kinds, names = kinds_of(field.annotation), _names(field.annotation)
    plain = ", ".join(names) + _range(field.metadata)
    return ", or ".join(part for part in (plain, "a section (below)" if kinds else "") if part)


def _names(annotation: Any) -> list[str]:
    """The types other than sections, each with its range."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = _range(arguments[1:])
        return [f"{name}{bounds}" for name in _names(arguments[0])]
    if origin in (Union, types.UnionType):
        return [name for part in arguments for name in _names(part) if name != "absent"]
    if origin is Literal:
        return [" or ".join(f"`{value}`" for value in arguments)]
    if origin is tuple:
        return [f"list of {', '.join(_names(arguments[0]))}"]
    if origin in (dict, Mapping):
        return [f"table of {', '.join(_names(arguments[1]))}"]
    return [] if kinds_of(annotation) else [_PLAIN[annotation]]


def _range(metadata: Any) -> str:
    """`, >= 1`, for every bound in a field's metadata."""
    bounds = []
    for item in metadata:
        for part in (item, *getattr(item, "metadata", ())):
            limits = {sign: getattr(part, key) for key, sign in _BOUNDS.items() if hasattr(part, key)}
            bounds += [f"{sign} {_number(limit)}" for sign, limit in limits.items() if limit != LARGEST]
    return "".join(f", {bound}" for bound in dict.fromkeys(bounds))


def _number(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"


def describe_default(field: FieldInfo) -> str:
    """The default as a person would type it, `absent`, `required`, or for a section its kind or `as below`."""
    default = field.default
    if field.is_required() or default is PydanticUndefined:
        return "required"
    if default is None:
        return "absent"
    if isinstance(default, Section):
        return kind_label(default.__class__).partition(" = ")[2] or "as below"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple | list):
        return f"`[{', '.join(str(part) for part in default)}]`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"

"""Writes docs/configuration.md from the schema: `make docs-config`, or `python -m docs.configuration`.

Every field with its type, range, default and the line of documentation that stands below it in `unisd_rl/config/`.
"""

import types
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from unisd_rl.config import Config
from unisd_rl.config.base import Decides, Section, decides_of

PAGE = Path(__file__).with_name("configuration.md")
_INTRODUCTION = """# Configuration

*Written by `python -m docs.configuration` from `unisd_rl/config/`; do not edit by hand.*

A run is described by one tree of sections and fields. A recipe is a TOML file of them, and the command line sets any
field over it: `--rollout.engine.type transformers`. A section is switched off by leaving it out of the recipe, or on
the command line by `null`: `--objective.clipping null`. Unknown keys are refused. How recipes lie over one another is
said in [recipes.md](recipes.md).

"absent" as a default means that the field need not be given; its line says what then holds. "required" means that a
section which is there must have it. The defaults are those of a section that says nothing; the shipped recipes
(`unisd_rl/recipes/`) set some of them. Where no upper bound of an integer is said, it is 2,147,483,647. A leading `~`
of a path is the home folder.

A field with "yes" in the column "on resume" may have another value when a run is resumed
([resume.md](resume.md#when-the-driver-is-lost)): it says where, how fast and how patiently the run happens, or how a
step is laid out, and nothing of what it trains.
"""
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


def page() -> str:
    """The whole page."""
    sections = [
        section
        for name, field in Config.model_fields.items()
        for section in _sections(name, field, "##", decides_of(field, Decides.ROLLOUTS))
    ]
    return "\n".join([_INTRODUCTION, *dict.fromkeys(sections)])  # a section that two kinds share stands here once


def _sections(path: str, field: FieldInfo, level: str, decides: Decides) -> Iterator[str]:
    """The section at `path`, or each kind that may stand there, and below it every section inside it."""
    kinds = kinds_of(field.annotation)
    if len(kinds) > 1 and level == "##":
        yield f"## {path}\n"
    for kind in kinds:
        title = f"{level} {path}" if len(kinds) == 1 else f"### {path}: {_label(kind)}"
        yield "\n".join([f"{title}\n", *_table(path, kind, decides)])
        for name, inner in kind.model_fields.items():
            yield from _sections(f"{path}.{name}", inner, "###", decides_of(inner, decides))


def _table(name: str, kind: type[Section], decides: Decides) -> Iterator[str]:
    if kind.__doc__:
        yield " ".join(kind.__doc__.split()) + "\n"
    yield "| field | type | default | on resume | |\n|---|---|---|---|---|"
    for field_name, field in kind.model_fields.items():
        yield _row(f"{name}.{field_name}", field, decides_of(field, decides))
    yield ""


def _row(path: str, field: FieldInfo, decides: Decides) -> str:
    resume = "yes" if decides in (Decides.NOTHING, Decides.ROUNDING) else ""
    cells = (
        f"`{path}`",
        _type(field),
        _default(field),
        resume,
        " ".join((field.description or "Selects this kind.").split()),
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _label(kind: type[Section]) -> str:
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


def _type(field: FieldInfo) -> str:
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


def _default(field: FieldInfo) -> str:
    default = field.default
    if field.is_required() or default is PydanticUndefined:
        return "required"
    if default is None:
        return "absent"
    if isinstance(default, Section):
        return _label(default.__class__).partition(" = ")[2] or "as below"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple | list):
        return f"`[{', '.join(str(part) for part in default)}]`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

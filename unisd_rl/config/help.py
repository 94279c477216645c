"""What `--help`, `--help SECTION` and `--help-all` say of the configuration, and `recipes` of the recipes; plain text.

A section that may be of several kinds is shown kind by kind, each with its own fields, and everything inside a section
below it. Imports nothing heavy.
"""

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic.fields import FieldInfo

from unisd_rl.config import Config
from unisd_rl.config.base import Section
from unisd_rl.config.fields import describe_default, describe_type, did_you_mean, field_names, kind_label, kinds_of
from unisd_rl.config.load import RECIPES, SETUPS
from unisd_rl.errors import UserError

WIDTH = 96
EXAMPLES = (
    ("python -m unisd_rl.run", "the default job, on two cores: unisd_star colocated"),
    ("python -m unisd_rl.run ema --run.steps 20 --dry-run", "look first; start nothing"),
    ("python -m unisd_rl.run my.toml --model.path MODEL", "your own model and data"),
)


def overview(usage: str, options: Mapping[str, str], commands: Mapping[str, str] | None = None) -> str:
    """The help of a command that takes recipes and fields, or of all `commands`: two screens.

    `options`: those beside the fields. Each name goes with what it does.
    """
    recipes = {path.stem: first_sentence(path) for path in recipe_files(RECIPES)}
    setups = {path.stem: first_sentence(path).removeprefix("Set-up: ") for path in recipe_files(SETUPS)}
    sections = {name: _sentence(_documentation(field)) for name, field in Config.model_fields.items()}
    every_field = {"--SECTION.FIELD VALUE": "set a field over all recipes; null switches a section off"}
    blocks = (
        *([_block("Commands", commands)] if commands else []),
        _block("Options", {**options, **every_field}),
        _block("Recipes, one per row of the paper's table (default: unisd_star), or a TOML file of your own", recipes),
        _block("Set-ups, which go behind a recipe", setups),
        _block("Sections; --help SECTION lists the fields of one, --help-all those of all", sections),
        _block("Examples", dict(EXAMPLES)),
    )
    return "\n\n".join([f"usage: {usage}", *blocks])


def section_help(name: str) -> str:
    """Every field of a section and of the sections in it, or one field.

    Raises:
        UserError: there is none of this name.
    """
    if name not in field_names():
        sections = ", ".join(Config.model_fields)
        raise UserError(
            f"--help {name!r:.80}: no such section or field{did_you_mean(name) or ';'} sections: {sections}"
        )
    lines = "\n".join(_lines_of(name)).rstrip()
    return re.sub(r"\n{3,}", "\n\n", lines)


def all_sections_help() -> str:
    """Every field of every section."""
    return "\n\n".join(map(section_help, Config.model_fields))


def recipe_files(folder: Path) -> list[Path]:
    """The recipes of a folder, by name; the default first."""
    return sorted(folder.glob("*.toml"), key=lambda path: (path.stem != "unisd_star", path.stem))


def first_sentence(recipe: Path) -> str:
    """What a recipe is: its first line, a comment."""
    return recipe.read_text(encoding="utf-8").partition("\n")[0].removeprefix("#").strip().replace("`", "")


def _lines_of(name: str) -> Iterator[str]:
    first, *inner = name.split(".")
    found = [(first, Config.model_fields[first])]
    for part in inner:
        kinds = [kind for _, field in found for kind in kinds_of(field.annotation)]
        found = [(name, kind.model_fields[part]) for kind in kinds if part in kind.model_fields]
    for field in {repr(field): field for _, field in found}.values():
        if kinds_of(field.annotation):
            yield from _section_lines(name, field)
        else:
            yield from _field_lines(name, field)


def _section_lines(name: str, field: FieldInfo) -> Iterator[str]:
    """A section, or each kind of section that may stand there."""
    kinds = kinds_of(field.annotation)
    if len(kinds) > 1:
        yield f"{name}: a section of one of {len(kinds)} kinds"
        yield ""
    for kind in kinds:
        title = name if len(kinds) == 1 else f"{name} with {kind_label(kind)}"
        yield from textwrap.wrap(f"{title}: {_text(kind.__doc__ or '')}", WIDTH)
        yield from _fields_below(name, kind, told=len(kinds) > 1)
        yield ""


def _fields_below(name: str, kind: type[Section], told: bool) -> Iterator[str]:
    """The fields, then the sections inside; `told`: the field that names the kind stands in the title."""
    label = kind_label(kind).partition(" = ")[0] if told else ""
    for part, field in kind.model_fields.items():
        if part != label:
            yield from _field_lines(f"{name}.{part}", field)
    for part, field in kind.model_fields.items():
        if kinds_of(field.annotation):
            yield ""
            yield from _section_lines(f"{name}.{part}", field)


def _field_lines(name: str, field: FieldInfo) -> Iterator[str]:
    default = describe_default(field)
    yield f"  --{name}  {_text(describe_type(field))}" + (f" ({_text(default)})" if default else "")
    said = textwrap.wrap(_text(field.description or "Selects this kind."), WIDTH - 6)
    yield from textwrap.indent("\n".join(said), " " * 6).splitlines()


def _documentation(field: FieldInfo) -> str:
    kinds = kinds_of(field.annotation)
    return (kinds[0].__doc__ or "") if len(kinds) == 1 else f"one of {len(kinds)} kinds, by its type"


def _sentence(text: str) -> str:
    return _text(re.split(r"(?<=\.)\s", text.strip())[0])


def _text(text: str) -> str:
    return " ".join(text.replace("`", "").split())


def _block(title: str, rows: Mapping[str, str]) -> str:
    width = max(map(len, rows))
    return "\n".join([f"{title}:", *(f"  {name:<{width}}  {text}".rstrip() for name, text in rows.items())])

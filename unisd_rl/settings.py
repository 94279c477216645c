"""From a recipe and the command line to a `Config` (decision 13). Imports nothing heavy.

A recipe is a TOML file, one of `recipes/` by its name or a user's own by its path; fields on the command
line lie over it: `python -m unisd_rl.run my.toml --run.steps 100 --objective.clipping null`.
"""

import tomllib
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict

from unisd_rl.config import Config
from unisd_rl.errors import UserError

RECIPES = Path(__file__).parent / "recipes"
DISCRIMINATORS = ("type", "level", "signal")
DEFAULT_KINDS = {"task": {"type": "arithmetic"}, "rollout": {"engine": {"type": "vllm"}}}
"""Which kind a section is of when neither the recipe nor the command line says so."""
Tree = Mapping[str, Any]


def load_recipe(recipe: str, overrides: Tree | None = None) -> Config:
    """The configuration of `recipe`, with `overrides` (a nested mapping) laid over it.

    Raises:
        UserError: one sentence for each thing that is wrong, with its value and the remedy.
    """
    tree = overlay(overlay(DEFAULT_KINDS, _read(recipe_path(recipe))), overrides or {})
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UserError(_sentences(error)) from None


def recipe_path(recipe: str) -> Path:
    """A shipped recipe by its name, or the file at this path."""
    shipped = RECIPES / f"{recipe}.toml"
    path = shipped if shipped.is_file() else Path(recipe)
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in RECIPES.glob("*.toml")))
        raise UserError(f"recipe {recipe!r} is neither a file nor a shipped recipe; shipped are: {names}")
    return path


def overlay(base: Tree, over: Tree) -> dict[str, Any]:
    """`over` laid on `base`, section by section; a section of another `type` or `level` replaces the whole section."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and not _other_kind(below, value):
            merged[key] = overlay(below, value)
        else:
            merged[key] = value
    return merged


def parse_fields(arguments: Sequence[str], program: str) -> dict[str, Any]:
    """The fields set on the command line, nested and unvalidated. `--help` prints every field and exits.

    Raises:
        UserError: an option that does not exist.
    """

    class Fields(Config, BaseSettings):
        """On-policy self-distillation. RECIPE: a shipped recipe's name or a TOML file (default: arithmetic)."""

        model_config = SettingsConfigDict(cli_implicit_flags=True)

    usage = f"{program} [RECIPE] [--dry-run] [--SECTION.FIELD VALUE ...]"
    parser = _OneSentenceParser(prog=program, usage=usage, allow_abbrev=False)
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and on which resources")
    source: CliSettingsSource[Fields] = CliSettingsSource(
        Fields, cli_parse_args=list(arguments), cli_hide_none_type=True, root_parser=parser
    )
    fields = source()
    return {key: value for key, value in fields.items() if key != "dry_run"}


class _OneSentenceParser(ArgumentParser):
    """Refuses in one sentence, not with a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `{self.prog} --help` lists all options")


def _other_kind(below: Tree, over: Tree) -> bool:
    return any(key in over and over[key] != below.get(key, over[key]) for key in DISCRIMINATORS)


def _read(path: Path) -> Tree:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a TOML file: {error}") from None


def _sentences(error: ValidationError) -> str:
    """One line an error: where, what was given, and what is wrong with it."""
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown key {where}; `python -m unisd_rl.run --help` lists all keys")
        elif item["type"] == "missing":
            lines.append(f"{where} is missing")
        elif item["type"] == "value_error":
            lines.append(f"{where}: {item['ctx']['error']}" if where else str(item["ctx"]["error"]))
        else:
            lines.append(f"{where} = {item['input']!r}: {item['msg']}")
    return "\n".join(lines)

"""Loading of configurations: from recipes and the command line to a `Config` (decision 13). Imports nothing heavy.

A recipe is a TOML file, one of `recipes/` by its name or a user's own by its path. It may say `extends = "OTHER"`:
then it lies over that one (a shipped recipe, or a path seen from its own folder). Several on the command line lie over
one another from left to right, and fields over all of them; but a set-up lies under the row that it follows, so that
what makes a row what it is stands under every set-up:

    python -m unisd_rl.run ema qwen2_5_7b my.toml --run.steps 100 --objective.clipping null
    DEFAULT_TYPES < embedded < qwen2_5_7b < ema < my.toml < --run.steps ...
"""

import tomllib
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from unisd_rl.config.schema import Config
from unisd_rl.errors import UserError

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
SETUPS = RECIPES / "setups"
"""Recipes that say where a run happens and how large it is, and nothing of what it minimises: they go with others."""
DISCRIMINATORS = ("type", "level", "signal")
ALTERNATIVES: Mapping[str, str] = {"steps": "epochs", "epochs": "steps"}
"""Fields of one section of which one is given: a recipe that gives one replaces the other below it."""
DEFAULT_TASK = "arithmetic"
DEFAULT_TYPES: "Tree" = {"task": {"type": DEFAULT_TASK}, "rollout": {"engine": {"type": "vllm"}}}
"""The types of sections for which neither a recipe nor the command line names one."""
RENAMED: Mapping[str, str] = {
    'contexts.negative.type = "written"': 'contexts.negative.type = "generated"',
    'contexts.negative.type = "bugs"': 'contexts.negative.type = "program_mutations"',
    "objective.released": "objective.reference_reductions",
}
"""Old keys, and old values of keys, with what they are called now. Each is refused wherever a configuration is read."""
Tree = Mapping[str, Any]


class Layer(NamedTuple):
    """A recipe's own sections and fields, without what it extends."""

    path: Path
    tree: Tree


def load_recipe(recipes: str | Sequence[str], overrides: Tree | None = None) -> Config:
    """The configuration of one recipe, or of several laid over one another in order, with `overrides` (nested) on top.

    Raises:
        UserError: one sentence for each thing that is wrong, with its value and the remedy.
    """
    return validate_config(overlay(recipe_tree(recipes), overrides or {}))


def recipe_tree(recipes: str | Sequence[str], under: Tree = DEFAULT_TYPES) -> dict[str, Any]:
    """The sections and fields of one recipe, or of several laid over one another in order, all over `under`; not
    validated."""
    names = [recipes] if isinstance(recipes, str) else recipes
    layers = _setups_under_rows([layer for name in names for layer in _layers(recipe_path(name))])
    rows = [layer.tree for layer in layers if layer.path.parent != SETUPS]
    return _with_views_of_rows(reduce(overlay, [layer.tree for layer in layers], {**under}), rows)


def validate_config(tree: Tree) -> Config:
    """A tree of sections and fields as a configuration.

    Raises:
        UserError: one sentence for each thing that is wrong, with its value and the remedy.
    """
    check_renamed(tree)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UserError(_explain(error)) from None


def check_renamed(tree: Tree, source: str = "") -> None:
    """Raise `UserError` with the new name if `tree` has a renamed key or value; `source` opens the sentence."""
    for old, new in RENAMED.items():
        key, _, value = old.partition(" = ")
        *sections, field = key.split(".")
        section: Any = tree
        for name in sections:
            section = section.get(name) if isinstance(section, Mapping) else None
        if isinstance(section, Mapping) and field in section and value in ("", f'"{section[field]}"'):
            raise UserError(f"{source}{old} has a new name: use {new}")


def recipe_path(recipe: str, folder: Path = Path()) -> Path:
    """A shipped recipe by its name, or the file at this path, seen from `folder`."""
    for path in (RECIPES / f"{recipe}.toml", SETUPS / f"{recipe}.toml", folder / recipe):
        if path.is_file():
            return path
    raise UserError(
        f"recipe {recipe!r} is neither a file nor a shipped recipe; shipped are: {recipe_names(RECIPES)}; "
        f"set-ups to lay over them: {recipe_names(SETUPS)}"
    )


def recipe_names(folder: Path) -> str:
    """The names of the recipes of a folder, in one line."""
    return ", ".join(sorted(file.stem for file in folder.glob("*.toml")))


def overlay(base: Tree, over: Tree) -> dict[str, Any]:
    """`over` laid on `base`, section by section; a section of another `type` or `level` replaces the whole section."""
    replaced = {ALTERNATIVES[key] for key, value in over.items() if key in ALTERNATIVES and value is not None}
    merged = {key: value for key, value in base.items() if key not in replaced}
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and not _differs_in_type(below, value):
            merged[key] = overlay(below, value)
        else:
            merged[key] = value
    return merged


def _differs_in_type(below: Tree, over: Tree) -> bool:
    return any(key in over and over[key] != below.get(key, over[key]) for key in DISCRIMINATORS)


def _setups_under_rows(layers: Sequence[Layer]) -> list[Layer]:
    """The same layers, undermost first, with each set-up below the shipped rows that it directly follows."""
    ordered: list[Layer] = []
    for layer in layers:
        place = len(ordered)
        while layer.path.parent == SETUPS and place and ordered[place - 1].path.parent == RECIPES:
            place -= 1
        ordered.insert(place, layer)
    return ordered


def _with_views_of_rows(tree: Tree, rows: Sequence[Tree]) -> dict[str, Any]:
    """The tree without those sections of `contexts` that only a set-up gives: it says how a view is had, and a row
    whether there is one."""
    contexts = tree.get("contexts")
    if not isinstance(contexts, Mapping):
        return {**tree}
    given = {name for row in rows for name in row.get("contexts", ())}
    kept = {name: value for name, value in contexts.items() if name in given or not isinstance(value, Mapping)}
    return {**tree, "contexts": kept}


def _layers(path: Path, over: tuple[Path, ...] = ()) -> list[Layer]:
    """The recipes that the one at `path` extends, undermost first, and itself; `over` are those that extend it."""
    own = path.resolve()
    tree, chain = dict(_read(path)), (*over, own)
    if own in over:
        raise UserError(f"{path} extends itself: {' -> '.join(step.name for step in chain)}; leave out one `extends`")
    base = tree.pop("extends", None)
    if base is None:
        return [Layer(own, tree)]
    if not isinstance(base, str):
        raise UserError(f"{path}: extends = {base!r} must be the name or the path of one recipe")
    return [*_layers(recipe_path(base, path.parent), chain), Layer(own, tree)]


def _read(path: Path) -> Tree:
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a TOML file: {error}") from None
    check_renamed(tree, f"{path}: ")
    return tree


def _explain(error: ValidationError) -> str:
    """One line per error: where, what was given, and what is wrong with it."""
    lines = []
    for item in error.errors():
        where = ".".join(map(str, item["loc"]))
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown key {where}; `python -m unisd_rl.run --help` lists all keys")
        elif where == "objective" and item["type"] == "missing":
            lines.append(
                f"nothing says what to minimise: give an [objective], or put a recipe before the set-up, one of "
                f"{recipe_names(RECIPES)}"
            )
        elif item["type"] == "missing":
            lines.append(f"{where} is missing")
        elif item["type"] == "value_error":
            lines.append(f"{where}: {item['ctx']['error']}" if where else str(item["ctx"]["error"]))
        else:
            lines.append(f"{where} = {item['input']!r}: {item['msg']}")
    return "\n".join(lines)

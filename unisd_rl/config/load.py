"""Loading of configurations: from recipes and the command line to a `Config` (decision 13). Imports nothing heavy.

A recipe is a TOML file, one of `recipes/` by its name or a user's own by its path. It may say `extends = "OTHER"`:
then it lies over that one (a shipped recipe, or a path seen from its own folder). Several on the command line lie over
one another from left to right, and fields over all of them; but a set-up lies under the row that it follows, so that
what makes a row what it is stands under every set-up:

    python -m unisd_rl.run ema qwen2_5_7b my.toml --run.steps 100 --objective.clipping null
    DEFAULT_TYPES < own_model.py < qwen2_5_7b < ema < my.toml < --run.steps ...

Where no model is named, the set-up `embedded` stands in the place of `own_model.py`.
"""

import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from unisd_rl.config.fields import did_you_mean
from unisd_rl.config.own_model import Default, has_own_model, own_model_defaults
from unisd_rl.config.schema import Config
from unisd_rl.errors import UserError

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
SETUPS = RECIPES / "setups"
"""Recipes that say where a run happens and how large it is, and nothing of what it minimises: they go with others."""
EMBEDDED = SETUPS / "embedded.toml"
"""The set-up of the embedded task and model, which the rows extend."""
DISCRIMINATORS = ("type", "level", "signal")
ALTERNATIVES: Mapping[str, tuple[str, ...]] = {
    "run": ("steps", "epochs"),
    "objective.clipping": ("threshold", "quantile"),
}
"""Fields of a section of which one is given: a recipe that gives one replaces the other below it."""
DEFAULT_TASK = "arithmetic"
DEFAULT_TYPES: "Tree" = {"task": {"type": DEFAULT_TASK}, "rollout": {"engine": {"type": "vllm"}}}
"""The types of sections for which neither a recipe nor the command line names one."""
RENAMED: Mapping[str, str] = {
    'contexts.negative.type = "written"': 'contexts.negative.type = "generated"',
    'contexts.negative.type = "bugs"': 'contexts.negative.type = "program_mutations"',
    "learner.packed": 'learner.layout = "packed" or "padded"',
    "objective.released": "objective.reference_reductions",
}
"""Old keys, and old values of keys, with what they are called now. Each is refused wherever a configuration is read."""
Tree = Mapping[str, Any]


class Layer(NamedTuple):
    """A recipe's own sections and fields, without what it extends; `named`: by a person, not by another recipe."""

    path: Path
    tree: Tree
    named: bool


def load_recipe(recipes: str | Sequence[str], overrides: Tree | None = None) -> Config:
    """The configuration of one recipe, or of several laid over one another in order, with `overrides` (nested) on top,
    on a machine without GPUs.

    Raises:
        UserError: one sentence for each thing that is wrong, with its value and the remedy.
    """
    return load_with_defaults(recipes, overrides or {}, lambda: 0)[0]


def load_with_defaults(
    recipes: str | Sequence[str], overrides: Tree, gpus: Callable[[], int]
) -> tuple[Config, tuple[Default, ...]]:
    """(The configuration, what of it follows from the model and the machine); `gpus` counts those there are.

    Raises:
        UserError: as `load_recipe`.
    """
    layers = _read_layers(recipes)
    without_embedded = [layer for layer in layers if layer.path != EMBEDDED or layer.named]
    given = overlay(_tree(without_embedded, {}), overrides)
    if not has_own_model(given):
        return validate_config(overlay(_tree(layers, DEFAULT_TYPES), overrides)), ()
    defaults = own_model_defaults(given, gpus)
    under = with_defaults(DEFAULT_TYPES, defaults)
    return validate_config(overlay(_tree(without_embedded, under), overrides)), defaults


def with_defaults(tree: Tree, defaults: Sequence[Default]) -> dict[str, Any]:
    """`tree` with these values over it."""
    return reduce(overlay, (nested(default.name, default.value) for default in defaults), {**tree})


def nested(name: str, value: Any) -> Tree:
    """A tree of sections with this one field, by its dotted name."""
    return reduce(lambda below, part: {part: below}, reversed(name.split(".")), value)


def recipe_tree(recipes: str | Sequence[str], under: Tree = DEFAULT_TYPES) -> dict[str, Any]:
    """The sections and fields of one recipe, or of several laid over one another in order, all over `under`; not
    validated."""
    return _tree(_read_layers(recipes), under)


def validate_config(tree: Tree) -> Config:
    """A tree of sections and fields as a configuration.

    Raises:
        UserError: one sentence for each thing that is wrong, with its value and the remedy.
    """
    check_renamed(tree)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UserError(_explain(error, tree)) from None


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
    for path in (RECIPES / f"{recipe}.toml", SETUPS / f"{recipe}.toml", folder / os.path.expanduser(recipe)):
        if os.path.isfile(path):  # False too where no file can have such a name
            return path
    shipped = [file.stem for place in (RECIPES, SETUPS) for file in place.glob("*.toml")]
    raise UserError(
        f"recipe {_short(recipe)} is neither a file nor a shipped recipe{did_you_mean(recipe, shipped) or ';'} "
        f"shipped are: {recipe_names(RECIPES)}; "
        f"set-ups to lay over them: {recipe_names(SETUPS)}"
    )


def describe_recipes(recipes: Sequence[str]) -> str:
    """The recipes in one line, as they were named: shipped ones by name, others by the name of their file, behind the
    shipped one that they extend."""
    names: list[str] = []
    for recipe in recipes:
        paths = [layer.path for layer in _layers(recipe_path(recipe))]
        shipped = [path.stem for path in paths if path.parent in (RECIPES, SETUPS)]
        names += [*shipped[-1:], *(path.name for path in paths[len(shipped) :])]
    return ", ".join(name.encode(errors="replace").decode() for name in names)  # a file's name need not be UTF-8


def recipe_names(folder: Path) -> str:
    """The names of the recipes of a folder, in one line."""
    return ", ".join(sorted(file.stem for file in folder.glob("*.toml")))


def overlay(base: Tree, over: Tree, section: str = "") -> dict[str, Any]:
    """`over` laid on `base`, section by section; a section of another `type` or `level` replaces the whole section.

    `section` is the dotted name of what both are; empty for all of a configuration.
    """
    base = _without_alternatives(section, base, over)
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and not _differs_in_type(below, value):
            merged[key] = overlay(below, value, f"{section}.{key}".lstrip("."))
        else:
            merged[key] = value
    return merged


def _without_alternatives(section: str, below: Tree, over: Tree) -> Tree:
    names = ALTERNATIVES.get(section, ())
    replaced = any(over.get(name) is not None for name in names)
    return {key: value for key, value in below.items() if not (replaced and key in names)}


def _differs_in_type(below: Tree, over: Tree) -> bool:
    return any(key in over and over[key] != below.get(key, over[key]) for key in DISCRIMINATORS)


def _read_layers(recipes: str | Sequence[str]) -> list[Layer]:
    names = [recipes] if isinstance(recipes, str) else recipes
    return _setups_under_rows([layer for name in names for layer in _layers(recipe_path(name))])


def _tree(layers: Sequence[Layer], under: Tree) -> dict[str, Any]:
    rows = [layer.tree for layer in layers if layer.path.parent != SETUPS]
    return _with_views_of_rows(reduce(overlay, [layer.tree for layer in layers], {**under}), rows)


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
    tree, extending = dict(_read(path)), (*over, own)
    if own in over:
        names = " -> ".join(step.name for step in extending)
        raise UserError(f"{path} extends itself: {names}; leave out one `extends`")
    base = tree.pop("extends", None)
    if base is None:
        return [Layer(own, tree, not over)]
    if not isinstance(base, str):
        raise UserError(f"{path}: extends = {base!r} must be the name or the path of one recipe")
    return [*_layers(recipe_path(base, path.parent), extending), Layer(own, tree, not over)]


def _read(path: Path) -> Tree:
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: no TOML, no UTF-8, or a number of thousands of digits
        raise UserError(f"{path} is not a TOML file that can be read: {error}") from None
    check_renamed(tree, f"{path}: ")
    return tree


def _explain(error: ValidationError, tree: Tree) -> str:
    """One line per field that is wrong: where, what was given, and what is wrong with it."""
    lines: dict[str, str] = {}
    for item in error.errors():
        where, kind = _name_of(item["loc"], tree)
        # Of a field with many faults the first is enough: a list has one for each of its elements.
        lines.setdefault(where, _sentence(where, kind, item))
    return "\n".join(lines.values())


def _name_of(location: tuple[int | str, ...], tree: Tree) -> tuple[str, str]:
    """(the dotted name of a field, as a recipe has it; the type of its section, where there are several)."""
    names, kind, below = list[str](), "", tree
    for part in location:
        if isinstance(part, int) or not isinstance(below, Mapping):
            break  # a place in a list, or a member of a union that is no section
        if part in below or part is location[-1]:
            names.append(part)
            below = below.get(part, {})
        else:
            kind = part
    return ".".join(names), kind


def _sentence(where: str, kind: str, item: ErrorDetails) -> str:
    context, given = item.get("ctx", {}), _short(item["input"])
    match item["type"]:
        case "extra_forbidden":
            of = f" of {kind!r}" if kind else ""
            resembling = did_you_mean(where[:200]) or ";"
            return f"unknown key {where:.200}{of}{resembling} `python -m unisd_rl.run --help-all` lists all keys"
        case "missing" if where == "objective":
            return (
                "nothing says what to minimise: give an [objective], or put a recipe before the set-up, one of "
                f"{recipe_names(RECIPES)}"
            )
        case "missing":
            return f"{where} is missing"
        case "value_error":
            return f"{where}: {context['error']}" if where else str(context["error"])
        case "union_tag_invalid":
            field, tag = context["discriminator"].strip("'"), _short(context["tag"])
            return f"{where}.{field} = {tag}: it must be one of {context['expected_tags']}"
        case _:
            return f"{where} = {given}: {item['msg']}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."

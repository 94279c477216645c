"""The command that lists the shipped recipes: `python -m unisd_rl.recipes [NAME]`; what each is, and what it costs.

Costs follow from the recipe alone: which completions are sampled, how often the learner reads each answer, and how many
copies of the weights it holds. Exit codes: `cli.exit_code`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from unisd_rl.cli import CliParser, exit_code
from unisd_rl.config import Config
from unisd_rl.config.help import first_sentence, recipe_files
from unisd_rl.config.load import RECIPES, SETUPS, load_recipe, recipe_path
from unisd_rl.types import ViewKind

PROGRAM = "python -m unisd_rl.recipes"
_DESCRIPTION = "List the shipped recipes with what each costs, or print one."
_BACKWARD = 2  # a backward pass is worth about two forward passes
_WIDE = 140
_LEGEND = """completions  where they come from; gold ones cost no generation
reads        passes of the learner over each answer, with gradient + without; what they share is read once
cost         of the learner beside SFT, by its passes (computed, not measured)
teacher      none, fixed (the initial model) or an average of the student: a second copy of the weights

A recipe is a TOML file: `unisd-rl recipes NAME` prints one, `unisd-rl run NAME` runs it, on the embedded task unless
a set-up or a recipe of your own follows it; `unisd-rl init DATA` writes one for your data."""


def main(arguments: Sequence[str] | None = None) -> int:
    """List, or print one; returns the exit code."""
    return exit_code(_recipes, arguments)


def _recipes(arguments: Sequence[str]) -> int:
    parser = CliParser(PROGRAM, "[NAME]", _DESCRIPTION)
    parser.add_argument("name", metavar="NAME", nargs="?", help="a shipped recipe or set-up")
    name: str | None = parser.parse_args(arguments).name
    if name is not None:
        path = recipe_path(name)
        print(f"# {path}\n{path.read_text(encoding='utf-8')}", end="")
        return 0
    terminal = Console(highlight=False)
    if not terminal.is_terminal:
        terminal = Console(highlight=False, width=_WIDE)
    terminal.print(_table(), markup=False)
    terminal.print(_LEGEND, markup=False, soft_wrap=True)
    return 0


def _table() -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("recipe", "completions", "reads", "cost", "teacher", "what it is"):
        table.add_column(title, no_wrap=title == "recipe", justify="right" if title == "cost" else "left")
    for path in recipe_files(RECIPES):
        config = load_recipe(path.stem)
        cost = f"{relative_cost(config):.1f} x"
        table.add_row(
            path.stem,
            _completions(config),
            f"1 + {reads_without_gradient(config)}",
            cost,
            _teacher(config),
            _what(path),
        )
    table.add_section()
    for path in recipe_files(SETUPS):
        table.add_row(path.stem, *[""] * 4, _what(path))
    return table


def reads_without_gradient(config: Config) -> int:
    """Passes over each answer that are not the student's own: one for each view that a term reads, and one of the
    student where a clip is a quantile of the step."""
    views, auxiliary = config.objective.needs.views, config.contexts_read.auxiliary
    by_kind = {
        ViewKind.PRIMARY: 1, ViewKind.NEGATIVE: 1, ViewKind.AUXILIARY: auxiliary.views if auxiliary is not None else 0,
    }  # fmt: skip
    return sum(by_kind[kind] for kind in views) + config.objective.needs_divergence_pass


def relative_cost(config: Config) -> float:
    """The learner's passes over an answer beside those of supervised fine-tuning, a backward pass taken as two."""
    with_gradient = 1 + _BACKWARD
    return (with_gradient + reads_without_gradient(config)) / with_gradient


def _completions(config: Config) -> str:
    shares = {name: share for name, share in config.rollout.sources.model_dump().items() if share}
    return ", ".join(name if share == 1 else f"{share:.0%} {name}" for name, share in shares.items())


def _teacher(config: Config) -> str:
    if not config.reads_teacher:
        return "none"
    return "fixed" if config.objective.ema is None else "average"


def _what(path: Path) -> str:
    return first_sentence(path).removeprefix("Set-up: ")


if __name__ == "__main__":
    sys.exit(main())

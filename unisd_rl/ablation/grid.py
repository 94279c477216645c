"""The grid of an ablation: which runs there are, each with its configuration, from one TOML file.

```toml
name = "small"
setups = ["in_process"]             # set-ups under every row, as on the command line
seeds = [0, 1, 2]
wrong_demonstrations = [0.0, 0.3]   # shares of the training problems
reference = "sdft"                  # the row that others are compared with

[tasks.arithmetic]
task = { type = "arithmetic" }
out_of_domain = { evaluation = "out_of_domain" }

[fields.run]                        # over all rows
steps = 40

[rows.sdft]
recipe = "sdft"

[rows.without_clipping]
recipe = "unisd_star"
without = ["objective.clipping"]
compared_with = "unisd_star"
```
"""

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from unisd_rl.config import Config
from unisd_rl.config.base import Count, CountOrNone, Decides, FileName, Fraction, Section, Seed, settings
from unisd_rl.config.load import nested, overlay, recipe_tree, validate_config
from unisd_rl.errors import UserError

_ALL = 1000  # checkpoints
Tree = dict[str, Any]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1)]


class GridTask(Section):
    """A task of the grid. All its rows begin with the same base model of a seed."""

    task: Tree
    """The section `task` of a run."""
    out_of_domain: Tree | None = None
    """Fields of that section under which the last version is evaluated once more. Absent: it is not."""
    fields: Tree = {}
    """Sections and fields of its runs, e.g. the model."""


class GridRow(Section):
    """A row of the table: what differs from the others."""

    recipe: str
    """A recipe, by its name or its path."""
    fields: Tree = {}
    """Sections and fields over it."""
    without: tuple[str, ...] = ()
    """Sections and fields that are left out, by their dotted names."""
    seeds: Seeds | None = None
    """Absent: the grid's."""
    trials: CountOrNone = 0
    """Settings that were tried for it on validation splits; said in the report."""
    evaluates_checkpoints: bool = False
    """Evaluate its checkpoints after the run, and not the versions between its steps: for a row whose actors keep the
    initial weights (`rollout.sources.base`)."""
    compared_with: str | None = None
    """Another row. Absent: the grid's `reference`."""
    replays: str | None = None
    """Another row, on whose rollouts this one trains (`unisd-rl replay`) with its own objective and learning rate, all
    else being as there: it generates nothing, and its checkpoints are evaluated after it. Absent: it samples its
    own."""
    on_policy: str | None = None
    """Of a row that trains on the rollouts of others: the row with the same objective that samples its own. The report
    says how well the ranks of the two agree."""


class Grid(Section):
    """Every run of an ablation."""

    name: FileName
    """Of the grid; its runs go to a folder of that name."""
    setups: tuple[str, ...] = ()
    """Set-ups that lie under every row."""
    seeds: Seeds
    """Seeds of each row that names none."""
    wrong_demonstrations: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.0,)
    """Shares of the training problems whose demonstration is wrong."""
    limit_minutes: Count = 30
    """A run that takes longer is ended and not counted."""
    reference: str
    """The row that others are compared with."""
    fields: Tree = {}
    """Sections and fields of every run."""
    tasks: Annotated[dict[FileName, GridTask], Field(min_length=1)]
    """Each under its name."""
    rows: Annotated[dict[FileName, GridRow], Field(min_length=1)]
    """Each under its name, in the order of the report."""

    @model_validator(mode="after")
    def _named_rows_are_there(self) -> "Grid":
        for name, other in [("reference", self.reference), *self._named()]:
            if other not in self.rows:
                raise ValueError(f"{name} = {other!r} is no row of this grid; rows are: {', '.join(self.rows)}")
        for name, row in self.rows.items():
            if row.replays is not None and self.rows[row.replays].replays is not None:
                raise ValueError(
                    f"rows.{name}.replays = {row.replays!r}, which replays itself and has no rollouts: name the row "
                    f"{self.rows[row.replays].replays!r}"
                )
        return self

    def _named(self) -> Iterator[tuple[str, str]]:
        for name, row in self.rows.items():
            for field in ("compared_with", "replays", "on_policy"):
                if (other := getattr(row, field)) is not None:
                    yield f"rows.{name}.{field}", other

    def compared_with(self, row: str) -> str:
        """The row that a row is compared with; itself for the reference."""
        return self.rows[row].compared_with or self.reference

    def evaluates_checkpoints(self, row: str) -> bool:
        """Whether the checkpoints of a row are evaluated after its runs, and nothing between their steps."""
        return self.rows[row].evaluates_checkpoints or self.rows[row].replays is not None

    def cells(self) -> Iterator["Cell"]:
        """Every run, in the order in which they are made."""
        for task in self.tasks:
            for wrong in self.wrong_demonstrations:
                for row, settings_of_row in self.rows.items():
                    for seed in settings_of_row.seeds or self.seeds:
                        yield Cell(row, task, wrong, seed)

    def config(self, cell: "Cell", folder: Path) -> Config:
        """The configuration of a run, whose folder will lie in `folder`.

        Raises:
            UserError: one sentence for each thing that is wrong, with its value and the remedy.
        """
        row, task = self.rows[cell.row], self.tasks[cell.task]
        tree = recipe_tree([row.recipe, *self.setups])
        over: list[Mapping[str, Any]] = [self.fields, task.fields, row.fields, {"task": task.task}]
        if cell.wrong_demonstrations:
            over.append(nested("task.wrong_demonstrations", cell.wrong_demonstrations))
        over.append({"run": {"name": cell.name, "dir": str(folder), "seed": cell.seed}})
        over.append({"model": {"base_seed": cell.seed}})  # read where the model is the embedded one
        for each in over:
            tree = overlay(tree, each)
        tree = deepcopy(tree)  # what is taken out below would be gone from the grid's own fields, for all rows
        for name in row.without:
            _remove(tree, name, cell.row)
        if self.evaluates_checkpoints(cell.row) and (every := tree.get("evaluation", {}).pop("every", None)):
            tree = overlay(tree, {"run": {"checkpoint_every": every, "keep_checkpoints": _ALL}})
        try:
            return validate_config(tree)
        except UserError as error:
            raise UserError(f"grid {self.name}, run {cell.name}: {error}") from None


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a grid."""

    row: str
    task: str
    wrong_demonstrations: float
    seed: int

    def of_row(self, row: str) -> "Cell":
        """The run of another row that is alike in all else."""
        return replace(self, row=row)

    @property
    def name(self) -> str:
        """The name of its run."""
        return f"{self.row}-{self.task}-{100 * self.wrong_demonstrations:g}-{self.seed}"


def load_grid(path: Path) -> Grid:
    """The grid of a TOML file.

    Raises:
        UserError: it cannot be read, or is no grid.
    """
    try:
        return Grid.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(
            f"grid {path} cannot be read: {error.strerror}; name a TOML file, as grids/small.toml"
        ) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"grid {path} is no TOML file: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the grid"
        raise UserError(f"grid {path}: {field}: {first['msg'].removeprefix('Value error, ')}") from None


def settings_digest(config: Config) -> str:
    """A digest of all that decides the numbers of a run: rows with another one are of other settings."""
    deciding = {
        name: setting.value
        for name, setting in settings(config).items()
        if setting.decides not in (Decides.NOTHING, Decides.ROUNDING) or name == "evaluation.every"
    }
    for name in ("run.name", "run.dir", "run.recipe"):
        deciding.pop(name)
    return hashlib.blake2b(json.dumps(deciding, sort_keys=True).encode(), digest_size=8).hexdigest()


def _remove(tree: Tree, name: str, row: str) -> None:
    *sections, last = name.split(".")
    inside: Any = tree
    for section in sections:
        inside = inside.get(section) if isinstance(inside, dict) else None
    if not isinstance(inside, dict) or last not in inside:
        raise UserError(f"rows.{row}.without: it has no {name}; leave that out")
    del inside[last]

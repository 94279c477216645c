"""The folder of a run, read again: to resume it (`--resume`), or to replay its training from the rollouts it stored.

Only files that `RunDirectory` and the rollout queue wrote are read, and nothing is written. Imports nothing heavy.
"""

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisd_rl.config import Config
from unisd_rl.config.base import Decides, settings
from unisd_rl.config.load import load_recipe, overlay, recipe_tree, validate_config
from unisd_rl.errors import UserError
from unisd_rl.storage.files import is_locked
from unisd_rl.storage.jsonl import read_json_lines
from unisd_rl.storage.lineage import Rollback, read_rollbacks, step_survives

Tree = Mapping[str, Any]
_BASE_MODEL, _DECODER = "base_model", "text_decoder-"
_WHY_FIXED = {
    "run.steps": "the learning rate's schedule follows from it, and a run can only be prolonged",
    "run.earlier_steps": "its steps were taken so",
    "run.forked_from": "it began there",
    "run.recipe": "it was made from that",
    "run.epochs": "its length is recorded as run.steps",
    "run.name": "the folder has its name",
    "run.dir": "the folder has its place",
    "model.path": "it is the model the run began with",
    "learner.ranks": "AdamW's moments of 8 bits are cut by it",
    "learner.zero_stage": "AdamW's moments of 8 bits are cut by it",
}


_STARTED = {
    "lock", "config.toml", "summary.json", "prompts.json", "events.jsonl", "report.html", "tensorboard", "logs",
    "control", "base_model", "base_model.partial", "fork", "fork.partial",
}  # fmt: skip
"""What a run leaves that ended before its first answer; nothing of it is worth keeping."""


_BEFORE_TREES: Tree = {"learner": {"layout": "packed"}}
"""What a run did whose config.toml names no layout: it is from before there were several."""


def check_run_folder(path: Path) -> None:
    """Check that a new run may take this folder: it is not there, or empty, or an earlier run's.

    Raises:
        UserError: another program or a person put something there.
    """
    try:
        others = {entry.name for entry in path.iterdir()} - {"lock"}
    except OSError:  # not there; or whoever makes it says what is wrong with it
        return
    try:
        ours = {"run", "objective"} <= tomllib.loads((path / "config.toml").read_text(encoding="utf-8")).keys()
    except (OSError, ValueError):
        ours = False
    if others and not (ours and (path / "lock").is_file()):
        raise UserError(
            f"{path} is there and is not the folder of a run (lock and config.toml): give this run another run.name, "
            "or empty the folder"
        )


def took_no_step(path: Path) -> bool:
    """Whether an earlier run's folder holds nothing but its start: no step, rollout, evaluation or checkpoint."""
    others = [entry for entry in path.iterdir() if entry.name not in _STARTED and not entry.name.startswith(_DECODER)]
    inside = [file for entry in others for file in (entry.rglob("*") if entry.is_dir() else (entry,))]
    return not any(file.is_file() and file.stat().st_size for file in inside)


def resumed_config(folder: Path, overrides: Tree) -> Config:
    """The configuration of the run in `folder`, with `overrides` (nested) on top, wherever the folder lies by now.

    Raises:
        UserError: there is no run, it is alive, it has finished, or an override would change what it trains.
    """
    _check_resumable(folder)
    location = {"run": {"dir": str(folder.absolute().parent), "name": folder.absolute().name}}
    recorded = overlay(recorded_tree(folder), location)
    before = validate_config(recorded)
    now = validate_config(overlay(recorded, overrides))
    if now.run.epochs is None and before.run.epochs is None and now.run.total_steps > before.run.total_steps:
        before, now = _prolonged(before, now)
    elif _status(folder) == "completed":
        steps = before.run.total_steps
        raise UserError(
            f"--resume {folder}: that run has finished; prolong it with --run.steps above its {steps}, or begin "
            f"another from a checkpoint with --fork {folder}@{steps}"
        )
    fixed = differing_settings(before, now, Decides.ROLLOUTS, Decides.LOSS) | _cutting_moments(before, now)
    for name, (was, given) in fixed.items():
        reason = _WHY_FIXED.get(name, "it says what is trained")
        raise UserError(
            f"{name} = {given!r}: the run in {folder} has {was!r}, and {reason}; leave it out, or start a new run"
        )
    return now


def _cutting_moments(before: Config, now: Config) -> dict[str, tuple[Any, Any]]:
    """The settings that differ and by which moments of 8 bits are cut in a checkpoint."""
    if not before.learner.eight_bit_moments:
        return {}
    differing = differing_settings(before, now, Decides.ROUNDING)
    return {name: differing[name] for name in ("learner.ranks", "learner.zero_stage") if name in differing}


def _prolonged(before: Config, now: Config) -> tuple[Config, Config]:
    """Both with the longer run: that it is longer is no difference."""
    run = before.run.prolonged(now.run.total_steps)
    lengths = {"steps": run.total_steps, "earlier_steps": run.earlier_steps}
    return before.model_copy(update={"run": run}), now.model_copy(update={"run": now.run.model_copy(update=lengths)})


def recorded_tree(folder: Path) -> dict[str, Any]:
    """The sections and fields of the run in `folder`, as it took them."""
    return recipe_tree(str(folder / "config.toml"), under=_BEFORE_TREES)


def changed_settings(run: Config, replay: Config) -> tuple[str, ...]:
    """Names of the settings that a step's loss depends on, beside its rollouts and the model, and that differ.

    The place of the model is none of them: a run's folder may have moved.
    """
    return tuple(differing_settings(run, replay, Decides.LOSS, Decides.ROUNDING))


def differing_settings(before: Config, now: Config, *decides: Decides) -> dict[str, tuple[Any, Any]]:
    """Name -> (before, now) of the settings that decide one of these and differ, sorted; absent ones are None."""
    old, new = settings(before), settings(now)
    return {
        name: (was, given)
        for name in sorted(old.keys() | new.keys())
        if (old.get(name) or new[name]).decides in decides
        and (was := old[name].value if name in old else None) != (given := new[name].value if name in new else None)
    }


def check_is_run(folder: Path, *others: str) -> None:
    """Check that a run began in this folder, and that it still has its `others`.

    Raises:
        UserError: it is not the folder of a run.
    """
    if missing := [name for name in ("config.toml", *others) if not (folder / name).exists()]:
        raise UserError(
            f"{folder} is not the folder of a run: it has no {' and no '.join(missing)}; "
            "name the folder that `run` printed, as runs/arithmetic"
        )


def _check_resumable(folder: Path) -> None:
    """Raise `UserError` where there is no run to go on with, or nobody may."""
    check_is_run(folder)
    if is_locked(folder):
        raise UserError(f"--resume {folder}: that run is alive; wait for its end, or end it")
    if not os.access(folder, os.W_OK):
        raise UserError(f"--resume {folder}: the folder cannot be written; mend its permissions, or copy it")


def _status(folder: Path) -> str:
    summary = folder / "summary.json"
    return str(json.loads(summary.read_text(encoding="utf-8"))["status"]) if summary.is_file() else ""


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run that ended, however it did."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> "RecordedRun":
        """The run in this folder.

        Raises:
            UserError: it is no run's folder, or the run still writes there.
        """
        check_is_run(path, "rollouts")
        if is_locked(path):
            raise UserError(f"{path} is still being written by its run: wait for its end, or copy the folder")
        return cls(path.absolute())

    @property
    def ledger(self) -> Path:
        """Where its rollouts lie."""
        return self.path / "rollouts"

    @property
    def original(self) -> Config:
        """What was asked for."""
        return self._load({})

    def config(self, overrides: Tree) -> Config:
        """What was asked for, with the model it began with, and `overrides` (nested) over it.

        Raises:
            UserError: its config.toml, or what lies over it, is not right; or the embedded model is gone.
        """
        config = self._load(overrides)
        if config.model.path is not None:
            return config
        model = self.path / _BASE_MODEL
        if not model.is_dir():
            raise UserError(f"{self.path} has lost the model it began with ({_BASE_MODEL}/): give it as --model.path")
        return self._load(overlay(overrides, {"model": {"path": str(model)}}))

    def losses(self) -> dict[int, float]:
        """Step -> loss of metrics.jsonl, of the steps that count: those that no rollback discarded."""
        rollbacks = self._rollbacks()
        return {
            line["step"]: line["loss"]
            for line in read_json_lines(self.path / "metrics.jsonl")
            if step_survives(line["lineage"], line["step"], rollbacks)
        }

    def lineage_of(self, step: int) -> int:
        """The lineage that took this step, of those that count."""
        return max((rollback.lineage for rollback in self._rollbacks() if rollback.step <= step), default=0)

    def not_compared(self, changed: Sequence[str]) -> str:
        """Why losses are not compared with this run's, where settings `changed`, or else because there are none."""
        if changed:
            return f"losses are not compared with those of {self.path}: {', '.join(changed)} changed"
        return f"losses are not compared: {self.path / 'metrics.jsonl'} has none of these steps"

    def quarantined(self) -> frozenset[int]:
        """Numbers of the prompts that were given up: their places in the batches are empty."""
        return frozenset(line["prompt"] for line in read_json_lines(self.path / "quarantined.jsonl"))

    def _load(self, overrides: Tree) -> Config:
        recipe = str(self.path / "config.toml")
        names_layout = "layout" in recipe_tree(recipe, under={}).get("learner", {})
        return load_recipe(recipe, overrides if names_layout else overlay(_BEFORE_TREES, overrides))

    def _rollbacks(self) -> tuple[Rollback, ...]:
        return read_rollbacks(self.path / "lineages.jsonl")


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """A recorded run and the configuration it is trained again with.

    `changed`: settings that losses depend on and that are not the run's. `check`: losses that differ are a failure.
    """

    run: RecordedRun
    config: Config
    changed: tuple[str, ...]
    check: bool

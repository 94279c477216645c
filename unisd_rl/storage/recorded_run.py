"""The folder of a run, read again: what was asked for, the model it began with, the losses of its surviving chain.

Only files that `RunDirectory` and the rollout queue wrote are read, and nothing is written. Imports nothing heavy.

What `python -m unisd_rl.replay` was asked for, and which changed settings keep its losses from being compared.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisd_rl.config import Config
from unisd_rl.config.load import load_recipe, overlay
from unisd_rl.errors import UserError
from unisd_rl.storage.files import is_locked
from unisd_rl.storage.jsonl import read_json_lines
from unisd_rl.storage.lineage import Rollback, read_rollbacks, step_survives

Tree = Mapping[str, Any]
_BASE_MODEL = "base_model"


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
        missing = [name for name in ("config.toml", "rollouts") if not (path / name).exists()]
        if missing:
            raise UserError(
                f"{path} is no run: it has no {' and no '.join(missing)}; give a run's folder, as runs/arithmetic"
            )
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
        return load_recipe(self._recipe)

    def config(self, overrides: Tree) -> Config:
        """What was asked for, with the model it began with, and `overrides` (nested) over it.

        Raises:
            UserError: its config.toml, or what lies over it, is not right.
        """
        config = load_recipe(self._recipe, overrides)
        if config.model.path is not None:
            return config
        return load_recipe(self._recipe, overlay(overrides, self._embedded_model()))

    def losses(self) -> dict[int, float]:
        """Step -> loss of metrics.jsonl, of the steps of the surviving chain: those that no rollback threw away."""
        rollbacks = self._rollbacks()
        return {
            line["step"]: line["loss"]
            for line in read_json_lines(self.path / "metrics.jsonl")
            if step_survives(line["lineage"], line["step"], rollbacks)
        }

    def lineage_of(self, step: int) -> int:
        """The lineage that took this step of the surviving chain."""
        return max((one.lineage for one in self._rollbacks() if one.step <= step), default=0)

    def quarantined(self) -> frozenset[int]:
        """Numbers of the prompts that were given up: their places in the batches are empty."""
        return frozenset(line["prompt"] for line in read_json_lines(self.path / "quarantined.jsonl"))

    @property
    def _recipe(self) -> str:
        return str(self.path / "config.toml")

    def _rollbacks(self) -> tuple[Rollback, ...]:
        return read_rollbacks(self.path / "lineages.jsonl")

    def _embedded_model(self) -> Tree:
        model = self.path / _BASE_MODEL
        if not model.is_dir():
            raise UserError(f"{self.path} has lost the model it began with ({_BASE_MODEL}/): give it as --model.path")
        return {"model": {"path": str(model)}}


_DECIDING = (
    "run.seed", "run.steps", "model.dtype", "model.lora", "contexts", "objective", "learner",
    "rollout.temperature", "rollout.top_p", "rollout.top_k",
)  # fmt: skip
_PLACES = ("learner.cores", "learner.resources", "learner.logprob_tolerance", "contexts.cache")


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """A recorded run and the configuration it is trained again with.

    `changed`: settings that losses depend on and that are not the run's. `check`: losses that differ are a failure.
    """

    run: RecordedRun
    config: Config
    changed: tuple[str, ...]
    check: bool


def changed_settings(run: Config, replay: Config) -> tuple[str, ...]:
    """Names of the settings that a step's loss depends on, beside its rollouts and the model, and that differ.

    The place of the model is none of them: a run's folder may have moved.
    """
    before, after = dict(_deciding(run)), dict(_deciding(replay))
    return tuple(name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name))


def _deciding(config: Config) -> Iterator[tuple[str, Any]]:
    for name, value in _leaves("", config.model_dump()):
        if _below(name, _DECIDING) and not _below(name, _PLACES):
            yield name, value


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, inner in value.items():
        yield from _leaves(f"{name}.{key}" if name else key, inner)


def _below(name: str, sections: tuple[str, ...]) -> bool:
    return any(name == section or name.startswith(f"{section}.") for section in sections)

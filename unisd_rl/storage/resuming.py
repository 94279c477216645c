"""What `--resume RUN_FOLDER` goes on with: the folder's own configuration, and the few fields that may be others now.

Another number of actors, other cores or more patience train the same thing; whatever else differs would not, and is
refused. Imports nothing heavy.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unisd_rl.config import Config
from unisd_rl.config.load import configuration, overlay, recipe_tree
from unisd_rl.errors import UserError
from unisd_rl.storage.files import is_locked

CHANGEABLE = (
    "run.checkpoint_every",
    "run.keep_checkpoints",
    "run.step_timeout_s",
    "run.start_timeout_s",
    "run.cluster_timeout_s",
    "contexts.cache",
    "rollout.engine.kv_cache_gib",
    "rollout.engine.gpu_memory_utilization",
    "rollout.engine.tensor_parallel",
    "rollout.actors",
    "rollout.gpus_per_actor",
    "rollout.resources",
    "rollout.cores",
    "rollout.concurrency",
    "rollout.lease_s",
    "rollout.max_attempts",
    "rollout.fsync",
    "weights.transport",
    "weights.bucket_mib",
    "weights.checksum",
    "weights.timeout_s",
    "learner.ranks",
    "learner.gpus_per_rank",
    "learner.resources",
    "learner.cores",
    "learner.zero_stage",
    "learner.micro_batch_tokens",
    "learner.scoring_tokens",
    "learner.packed",
    "learner.gradient_checkpointing",
    "learner.chunk_tokens",
    "learner.logprob_tolerance",
    "evaluation.every",
    "evaluation.concurrency",
    "faults",
)
"""Fields, and whole sections, that say where and how patiently a run happens, and nothing of what it trains."""
WHY = {
    "run.steps": "the learning rate's schedule follows from it",
    "run.name": "the folder has its name",
    "run.dir": "the folder has its place",
    "model.path": "it is the model the run began with",
}
Tree = Mapping[str, Any]


def resumed_config(folder: Path, overrides: Tree) -> Config:
    """The configuration of the run in `folder`, with `overrides` (nested) on top, wherever the folder lies by now.

    Raises:
        UserError: there is no run, it is alive, it has finished, or an override would change what it trains.
    """
    _refuse_no_run(folder)
    _refuse_alive(folder)
    _refuse_finished(folder)
    recorded = recipe_tree(str(folder / "config.toml"), under={})
    place = {"run": {"dir": str(folder.absolute().parent), "name": folder.absolute().name}}
    before = configuration(overlay(recorded, place))
    now = configuration(overlay(overlay(recorded, place), overrides))
    _refuse_other_training(before, now, folder)
    return now


def _refuse_no_run(folder: Path) -> None:
    if not (folder / "config.toml").is_file():
        raise UserError(f"--resume {folder}: no run began there (it has no config.toml); name the folder of a run")


def _refuse_alive(folder: Path) -> None:
    if is_locked(folder):
        raise UserError(f"--resume {folder}: that run is alive; wait for its end, or end it")
    if not os.access(folder, os.W_OK):
        raise UserError(f"--resume {folder}: the folder cannot be written; mend its permissions, or copy it")


def _refuse_finished(folder: Path) -> None:
    summary = folder / "summary.json"
    if summary.is_file() and json.loads(summary.read_text(encoding="utf-8"))["status"] == "completed":
        raise UserError(
            f"--resume {folder}: that run has finished; start another from its last checkpoint with --model.path, "
            "under another --run.name"
        )


def _refuse_other_training(before: Config, now: Config, folder: Path) -> None:
    then, given = (dict(_fields(config.model_dump(mode="json"))) for config in (before, now))
    for name in sorted({*then, *given}):
        if then.get(name) != given.get(name) and not _may_change(name):
            reason = WHY.get(name, "it says what is trained")
            raise UserError(
                f"{name} = {given.get(name)!r}: the run in {folder} has {then.get(name)!r}, and {reason}; leave "
                "it out, or start a new run"
            )


def _may_change(name: str) -> bool:
    return any(name == field or name.startswith(f"{field}.") for field in CHANGEABLE)


def _fields(tree: Tree, section: str = "") -> Iterator[tuple[str, Any]]:
    """`section.field` and its value; an absent section is none."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{section}{key}.")
        else:
            yield f"{section}{key}", value

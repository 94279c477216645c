"""A run that begins with a checkpoint of another one (`--fork RUN@STEP`), with other settings and steps of its own.

The checkpoint's weights, AdamW's moments and the teacher's average are what it starts from: its version 0. It has its
own prompts, numbered from 0, its own ledger and its own schedule, so that each of the two trains on every prompt once.
The checkpoint is kept in its folder, as `fork/`, because the other run removes its old ones.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from unisd_rl.config import Config
from unisd_rl.config.base import Decides
from unisd_rl.config.load import overlay, validate_config
from unisd_rl.errors import UserError
from unisd_rl.storage.checkpoints import MANIFEST, Checkpoint, DamagedCheckpoint, newest_first, open_verified
from unisd_rl.storage.files import replace_directory
from unisd_rl.storage.recorded_run import Tree, check_is_run, differing_settings, recorded_tree

FORK = "fork"
_WEIGHTS = ("model.path", "model.base_seed", "model.lora")
"""Settings that say which weights a checkpoint has."""


def forked_config(folder: Path, step: int, overrides: Tree) -> Config:
    """The configuration of a new run that begins with the checkpoint after `step` steps of the run in `folder`: that
    run's, under a name of its own, with `overrides` (nested) on top.

    Raises:
        UserError: there is no run or no such checkpoint, or an override does not go with it.
    """
    option = f"--fork {folder}@{step}"
    check_is_run(folder)
    checkpoint = _checkpoint(folder.absolute(), step)
    if not (checkpoint / MANIFEST).is_file():
        there = ", ".join(path.name.removeprefix("step-") for path in newest_first(checkpoint.parent)) or "none"
        raise UserError(f"{option}: that run has no checkpoint of step {step}; it has those of: {there}")
    recorded = recorded_tree(folder)
    before, now = validate_config(recorded), validate_config(overlay(_renamed(recorded, folder, step), overrides))
    for name, (was, given) in differing_settings(before, now, *Decides).items():
        if name.startswith(_WEIGHTS):
            raise UserError(f"{name} = {given!r}: {option} begins with the weights of {was!r}; leave it out")
    if now.reads_teacher and not before.reads_teacher:
        raise UserError(
            f"{option}: that run had no teacher, so its checkpoint holds none; start from its model with "
            f"--model.path {checkpoint}"
        )
    return now


def _renamed(recorded: Tree, folder: Path, step: int) -> dict[str, Any]:
    """The sections of the run in `folder`, as those of a run beside it that has not been prolonged."""
    path = folder.absolute()
    own = {"dir": str(path.parent), "name": f"{path.name}-from-{step}", "forked_from": f"{path}@{step}"}
    run = {key: value for key, value in recorded.get("run", {}).items() if key != "earlier_steps"}
    return {**recorded, "run": {**run, **own}}


def keep_checkpoint(config: Config, run: Path) -> None:
    """Put the checkpoint that this run begins with into its folder, if it is a fork and has it not yet.

    On the same disk its files are linked.

    Raises:
        UserError: the checkpoint is gone or damaged.
    """
    if config.run.forked_from is None or (run / FORK).is_dir():
        return
    folder, _, step = config.run.forked_from.rpartition("@")
    source, partial = _checkpoint(Path(folder), int(step)), run / f"{FORK}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(source, partial, copy_function=_link_or_copy)
        open_verified(partial)
    except (OSError, DamagedCheckpoint) as error:
        raise UserError(f"--fork {config.run.forked_from}: that checkpoint cannot be taken: {error}") from None
    replace_directory(partial, run / FORK)


def fork_of(config: Config, run: Path) -> Checkpoint | None:
    """The checkpoint that the run in this folder began with; None where it is no fork.

    Raises:
        UserError: it is gone, or damaged.
    """
    if config.run.forked_from is None:
        return None
    try:
        return open_verified(run / FORK)
    except DamagedCheckpoint as error:
        raise UserError(
            f"{run} began with a checkpoint of {config.run.forked_from}, kept in {FORK}/, and {error}: put it back"
        ) from None


def _checkpoint(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step}"


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)

"""Weights & Biases, through its own client. Without its key, or with WANDB_MODE=offline, what it is told stays in
RUN/wandb, from where `wandb sync` sends it. W&B's own variables count: WANDB_MODE, WANDB_PROJECT, WANDB_DIR, ..."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from secrets import token_hex

import wandb
from typing_extensions import override

from unisd_rl.tracking.run_id import run_id
from unisd_rl.tracking.tracker import RESUMED_FROM, Rows, RunInformation, Tracker

_AXIS = "version"
_FINISH_S = 4.0
"""For the upload of what is left; what does not go in that time is in the folder, for `wandb sync`."""


class Wandb(Tracker):
    """One W&B run, its charts over `version`; a history there cannot be taken back, hence `resumed_from`."""

    def __init__(self, run: Path, name: str) -> None:
        identity, _ = run_id(run, "wandb", partial(token_hex, 4))
        # Silent, and never a prompt for a key: the terminal belongs to the run, and nobody may sit there.
        settings = wandb.Settings(silent=True, console="off", finish_timeout=_FINISH_S)
        wandb.setup(settings)
        asked = os.environ.get("WANDB_MODE") is not None or wandb.login(prompt=False)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "unisd-rl"),
            dir=os.environ.get("WANDB_DIR", str(run)),
            name=name,
            id=identity,
            resume="allow",
            mode=None if asked else "offline",
            settings=settings,
        )
        self.waits_for_a_server = not self._run.offline  # else its service only has to write what it was told
        self._run.define_metric("*", step_metric=_AXIS)

    @override
    def begin(self, version: int, information: RunInformation) -> None:
        commit, command = information.commit, information.command
        kept = {**information.config, "git_commit": commit, "command": command, "recipe": information.recipe}
        self._run.config.update(kept, allow_val_change=True)
        self.numbers(version, {RESUMED_FROM: version})

    @override
    def numbers(self, version: int, numbers: Mapping[str, float]) -> None:
        self._run.log({_AXIS: version, **numbers})

    @override
    def table(self, version: int, name: str, columns: Sequence[str], rows: Rows) -> None:
        self._run.log({_AXIS: version, name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])})

    @override
    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
        wandb.teardown()  # its service writes the last block when it ends, and `finish` does not wait for that

"""The sections `run` and `faults`: a run's name, folder, length and time limits; what happens when a part fails."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from unisd_rl.config.base import Count, Decides, Positive, Section


class RunConfig(Section):
    """Name, folder, length and time limits of a run."""

    name: Annotated[str, Field(pattern=r"^[^/.][^/]*$")] = "arithmetic"
    """Name of the run; its files go to DIR/NAME."""
    dir: Path = Path("runs")
    """Folder for runs. Must be absolute under a Ray job, whose working directory is thrown away."""
    steps: Annotated[Count, Decides.LOSS] = 40
    """Optimiser steps."""
    seed: Annotated[int, Decides.LOSS] = 0
    """Seeds the order of prompts, the choice of contexts, sampling and initial weights."""
    checkpoint_every: Annotated[int, Field(ge=0), Decides.NOTHING] = 20
    """Steps between checkpoints: at most so many are lost with a learner. 0: none; the last step always leaves one."""
    keep_checkpoints: Annotated[Count, Decides.NOTHING] = 2
    """Checkpoints that are kept, the newest ones; the last step's is kept besides. With one, damage costs all."""
    step_timeout_s: Annotated[Positive, Decides.NOTHING] = 900.0
    """How long the loop waits for one batch or one optimiser step before it gives up."""
    start_timeout_s: Annotated[Positive, Decides.NOTHING] = 600.0
    """How long an engine or a learner may take to start."""
    cluster_timeout_s: Annotated[Positive, Decides.NOTHING] = 60.0
    """How long to wait for a cluster to offer the resources asked for."""


class FaultsConfig(Section):
    """What happens when a component of a run dies or hangs. Each restart waits `backoff_s`, doubled each time."""

    backoff_s: Positive = 1.0
    """Wait before the first restart of a component (seconds); each further one in a row waits twice as long."""
    backoff_max_s: Positive = 60.0
    """Longest wait before a restart."""
    max_restarts: Annotated[int, Field(ge=0)] = 20
    """Restarts of one component within `window_s`, and of the learner without a step further however long that takes;
    one more failure ends the run. 0: the first failure does."""
    window_s: Positive = 3600.0
    """Failures older than this are forgotten."""
    ping_s: Positive = 5.0
    """How often each rollout actor is asked whether it lives."""
    silent_s: Positive = 60.0
    """An actor that does not answer for so long is taken for dead."""
    stall_s: Positive = 180.0
    """An engine that for so long makes no token with prompts in flight, or stays paused for new weights, is taken for
    stuck."""
    patience_s: Positive = 300.0
    """How long a call waits for the rollout queue or the weight store to come back before the run gives up."""

    @model_validator(mode="after")
    def _silence_is_longer_than_a_ping(self) -> "FaultsConfig":
        if self.ping_s >= self.silent_s:
            raise ValueError(
                f"ping_s = {self.ping_s:g} is not below silent_s = {self.silent_s:g}: every actor would be taken for "
                "dead before it is asked a second time; lower ping_s"
            )
        return self

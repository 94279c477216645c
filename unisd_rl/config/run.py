"""Name, place, length and patience of a run."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from unisd_rl.config.base import Count, Positive, Section


class RunConfig(Section):
    """Name, place, length and patience of a run."""

    name: Annotated[str, Field(pattern=r"^[^/.][^/]*$")] = "arithmetic"
    """Name of the run; its files go to DIR/NAME."""
    dir: Path = Path("runs")
    """Folder for runs. Must be absolute under a Ray job, whose working directory is thrown away."""
    steps: Count = 40
    """Optimiser steps."""
    seed: int = 0
    """Seeds the order of prompts, the choice of contexts, sampling and initial weights."""
    checkpoint_every: Annotated[int, Field(ge=0)] = 20
    """Steps between checkpoints: at most so many are lost with a learner. 0: none; the last step always leaves one."""
    keep_checkpoints: Count = 2
    """Checkpoints that are kept, the newest ones; the last step's is kept besides. With one, damage costs all."""
    step_timeout_s: Positive = 900.0
    """How long the loop waits for one batch or one optimiser step before it gives up."""
    start_timeout_s: Positive = 600.0
    """How long an engine or a learner may take to start."""
    cluster_timeout_s: Positive = 60.0
    """How long to wait for a cluster to offer the resources asked for."""

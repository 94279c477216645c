"""The sections `run`, `faults` and `alarms`: a run's name and length; what happens when a part fails or drifts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from unisd_rl.config.base import (
    Count,
    CountOrNone,
    Decides,
    FileName,
    OpenFraction,
    Positive,
    Seconds,
    Section,
    Seed,
    UserPath,
)

Placement = Literal["apart", "colocated", "in_process"]


class RunConfig(Section):
    """Name, folder, length and time limits of a run."""

    name: FileName = "arithmetic"
    """Name of the run; its files go to DIR/NAME."""
    dir: UserPath = Path("runs")
    """Folder for runs. Must be absolute under a Ray job, whose working directory is thrown away."""
    steps: Annotated[Count | None, Decides.LOSS] = 40
    """Optimiser steps. Absent where `epochs` is given."""
    epochs: Annotated[Annotated[int, Field(ge=1, le=10_000)] | None, Decides.LOSS] = None
    """Passes over the training problems that are kept, instead of `steps`: epochs * problems *
    `rollout.answers_per_prompt` / `learner.batch_size` steps, rounded up, counted at the run's start and recorded as
    `steps`."""
    earlier_steps: Annotated[tuple[Count, ...], Decides.LOSS] = ()
    """Lengths that the run had before `--resume RUN --run.steps N` prolonged it, which writes them here: the learning
    rate of a step follows the schedule of the shortest length that the step is within."""
    forked_from: Annotated[str | None, Decides.LOSS] = None
    """The checkpoint that `--fork RUN@STEP` began this run from, which writes it here; the files are in `fork/`."""
    recipe: Annotated[str | None, Decides.LOSS] = None
    """The recipes that this run was made from, which the command `run` writes here: shipped ones by name, others by the
    name of their file."""
    seed: Annotated[Seed, Decides.LOSS] = 0
    """Seeds the order of prompts, the choice of contexts, sampling and initial weights."""
    checkpoint_every: Annotated[CountOrNone, Decides.NOTHING] = 20
    """Steps between checkpoints: at most so many are lost with a learner. 0: none; the last step always leaves one."""
    keep_checkpoints: Annotated[Count, Decides.NOTHING] = 2
    """Checkpoints that are kept, the newest ones; the last step's is kept besides. With one, damage costs all."""
    step_timeout_s: Annotated[Seconds, Decides.NOTHING] = 900.0
    """How long the loop waits for one batch or one optimiser step before it gives up."""
    start_timeout_s: Annotated[Seconds, Decides.NOTHING] = 600.0
    """How long an engine or a learner may take to start."""
    placement: Annotated[Placement, Decides.ROUNDING] = "apart"
    """Where the rollout actors and the learner compute: `apart` on cores of their own, at the same time, or `colocated`
    on the same ones, in turns: the actors generate until the next batch is there and sleep while the learner trains on
    it. Then there is one actor, on the CPUs or on one GPU of one machine, and `rollout.max_staleness` is 0 or 1. On a
    GPU, where this has not been run, both sides ask for a share of it, there is one learner rank, and vLLM gives the
    memory back in the learner's turn. `in_process`: in turns too, and all in the driver's process, on one thread,
    without Ray: for a debugger, and for small runs. The engine is then `transformers`, and there is one learner
    rank."""
    cluster_timeout_s: Annotated[Seconds, Decides.NOTHING] = 60.0
    """How long to wait for a cluster to offer the resources asked for."""

    @model_validator(mode="before")
    @classmethod
    def _epochs_replace_the_default_steps(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("epochs") is not None:
            return {"steps": None, **values}
        return values

    @model_validator(mode="after")
    def _has_one_length(self) -> "RunConfig":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"steps = {self.steps} and epochs = {self.epochs}: a run has one length; give one of them")
        return self

    @property
    def colocated(self) -> bool:
        """Whether generation and learning take turns on the same cores."""
        return self.placement in ("colocated", "in_process")

    @property
    def in_process(self) -> bool:
        """Whether everything is in the driver's process."""
        return self.placement == "in_process"

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run; `epochs` must have been counted (`counted`)."""
        assert self.steps is not None, "run.epochs is turned into run.steps once the problems are counted"
        return self.steps

    def schedule_steps(self, step: int) -> int:
        """The length of the learning rate's schedule at `step` (from 0): other than `total_steps` for a step that was
        taken before the run was prolonged."""
        return next(length for length in (*self.earlier_steps, self.total_steps) if step < length)

    def prolonged(self, steps: int) -> "RunConfig":
        """The same run with more steps; those it would have had keep their learning rates."""
        earlier = (*self.earlier_steps, self.total_steps)
        return self.model_copy(update={"steps": steps, "earlier_steps": earlier})

    @model_validator(mode="after")
    def _grew(self) -> "RunConfig":
        lengths = (*self.earlier_steps, *([self.steps] if self.steps is not None else []))
        if list(lengths) != sorted(set(lengths)):
            raise ValueError(
                f"earlier_steps = {list(self.earlier_steps)}, steps = {self.steps}: a run only grows, so each must be "
                "more than the one before; leave earlier_steps to --resume"
            )
        return self

    @property
    def length(self) -> str:
        """For people: `40 steps`, or `2 epochs` while the problems are not counted."""
        count, unit = (self.steps, "step") if self.steps is not None else (self.epochs, "epoch")
        return f"{count:,} {unit}{'s' * (count != 1)}"

    def counted(self, completions: int, batch_size: int) -> "RunConfig":
        """The same run with its length in steps: epochs * completions / batch_size, rounded up.

        `completions` are those of one pass over the training problems.
        """
        if self.epochs is None:
            return self
        return self.model_copy(update={"steps": -(-self.epochs * completions // batch_size), "epochs": None})


class FaultsConfig(Section):
    """What happens when a component of a run dies or hangs. Each restart waits `backoff_s`, doubled each time."""

    backoff_s: Seconds = 1.0
    """Wait before the first restart of a component (seconds); each further one in a row waits twice as long."""
    backoff_max_s: Seconds = 60.0
    """Longest wait before a restart."""
    max_restarts: CountOrNone = 20
    """Restarts of one component within `window_s`, and of the learner or an actor without a step further however long
    that takes; one more failure ends the run. 0: the first failure does."""
    window_s: Seconds = 3600.0
    """Failures older than this are forgotten."""
    ping_s: Seconds = 5.0
    """How often each rollout actor is asked whether it lives."""
    silent_s: Seconds = 60.0
    """An actor that does not answer for so long is taken for dead."""
    stall_s: Seconds = 180.0
    """An engine that for so long makes no token with prompts in flight, or stays paused for new weights, is taken for
    stuck."""
    patience_s: Seconds = 300.0
    """How long a call waits for the rollout queue or the weight store to come back before the run gives up."""

    @model_validator(mode="after")
    def _silence_is_longer_than_a_ping(self) -> "FaultsConfig":
        if self.ping_s >= self.silent_s:
            raise ValueError(
                f"ping_s = {self.ping_s:g} is not below silent_s = {self.silent_s:g}: every actor would be taken for "
                "dead before it is asked a second time; lower ping_s"
            )
        return self


class AlarmsConfig(Section):
    """When the numbers of a step are worth a line and an event. An alarm ends nothing; absent: that one never sounds.

    It sounds when it begins, and again once the number has been on the right side of the bar (of half of it for
    `mismatch_kl`) in between. Means are over the last `window` steps; what they are compared with is the mean of the
    first steps since the start or the resumption.
    """

    window: Count = 8
    """Steps of a mean."""
    mismatch_kl: Positive | None = 0.015
    """Divergence of engine and learner on the same tokens, above (nats a token; over at least 32 tokens). The default
    is prime-rl's bar."""
    mismatch_p99: Positive | None = None
    """99th percentile of the difference of their log-probs, above (nats). By its root mean square
    `learner.logprob_tolerance` ends the run."""
    entropy_fall: OpenFraction | None = 0.1
    """Mean entropy of the policy, below this fraction of that of the first steps: it answers one way only."""
    length_factor: Annotated[float, Field(gt=1.0, le=1e6)] | None = 2.0
    """Mean length of completions, longer or shorter by this factor than in the first steps."""
    repeated_share: OpenFraction | None = 0.5
    """Mean share of a completion's runs of four tokens that stand in it earlier, above."""
    copied_share: OpenFraction | None = None
    """Mean share of a completion's runs of four tokens that only the teacher read, above. Absent by default: where an
    answer is short, a right one is the demonstration's."""

"""A process with one learner in one layout, which takes the steps that it is told to and says what they cost.

```
 benchmarks/trees.py --rollouts of a step--> packed worker --figures-->      the others wait meanwhile, so that
                     --the same rollouts---> tree worker   --figures-->      every layout has all cores in its turn
```

A layout has a process of its own for the sake of its peak memory, and keeps it for all its steps, so that a busy spell
of a shared machine meets all layouts.
"""

import ctypes
import multiprocessing
import os
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.divergences.measure import MIB, peak_bytes, start_peak
from benchmarks.layouts.one_rank import one_rank
from benchmarks.layouts.rollouts import unisd_star
from unisd_rl.config import Config
from unisd_rl.types import Rollout

if TYPE_CHECKING:
    from learner.batch import RankBatch
    from learner.learner import Learner
    from learner.scoring import Scores
    from learner.step_timer import StepTimer

TIMEOUT_S = 900
_VIEWS = ("primary", "auxiliary", "negative")


@dataclass(frozen=True)
class Setting:
    """How a worker's learner is set up."""

    model: Path
    layout: str
    device: str
    threads: int
    dtype: str
    lora: int | None
    gradient_tokens: int

    def config(self) -> Config:
        """UniSD*. The rate hardly moves a weight, so that every step is the same work on the same model."""
        learner = {
            "layout": self.layout,
            "micro_batch_tokens": self.gradient_tokens,
            "gradient_checkpointing": self.device == "cuda",
            "learning_rate": 1e-12,
        }
        lora = None if self.lora is None else {"rank": self.lora, "dropout": 0.0}
        return unisd_star(self.model, {"learner": learner, "model": {"dtype": self.dtype, "lora": lora}})


@dataclass(frozen=True)
class StepFigures:
    """What one step cost."""

    wall_s: float
    """Teacher, student forward and backward, and everything between them; without the optimiser's step."""
    teacher_s: float
    student_s: float
    """The pass for the quantile clip, and those with gradient."""
    update_s: float
    teacher_tokens: int
    """Tokens read in all views."""
    clip_tokens: int
    """Tokens that the student reads without gradient, for the quantile clip."""
    student_tokens: int
    """Tokens read with gradient."""
    passes: int
    peak_mib: float
    """Most memory of the process (on a GPU: of the allocator) during the step, weights and moments in it."""
    loss: float
    gradient_norm: float
    logprobs: dict[int, np.ndarray] = field(repr=False)
    """By rollout, [views, tokens]: the teacher's log-prob of every completion token under every view."""

    def largest_difference(self, other: "StepFigures") -> float:
        """Between the log-probs of two layouts; where a completion has no such view both must say nan."""
        pairs = [(self.logprobs[number], right) for number, right in other.logprobs.items()]
        if any((np.isnan(left) != np.isnan(right)).any() for left, right in pairs):
            return float("inf")
        return float(max(np.nan_to_num(np.abs(left - right)).max() for left, right in pairs))


class WorkerFailed(Exception):
    """A worker ended, or was silent for too long."""


class Worker:
    """The parent's end of a worker process. Every call raises `WorkerFailed` if that fails."""

    def __init__(self, setting: Setting) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._name = f"the worker of layout {setting.layout}"
        self._process = context.Process(target=_serve, args=(theirs, setting), daemon=True)
        self._process.start()
        theirs.close()
        self._answer("is not ready")

    def step(self, rollouts: list[Rollout]) -> StepFigures:
        """Have it take a step."""
        self._connection.send(rollouts)
        figures = self._answer("has not taken a step")
        assert isinstance(figures, StepFigures)
        return figures

    def close(self) -> None:
        """End it."""
        self._connection.close()
        self._process.join(TIMEOUT_S)

    def _answer(self, late: str) -> object:
        if not self._connection.poll(TIMEOUT_S):
            self._process.kill()
            raise WorkerFailed(f"{self._name} {late} after {TIMEOUT_S} s")
        try:
            return self._connection.recv()
        except EOFError:
            raise WorkerFailed(f"{self._name} ended; its last words stand above") from None


def _serve(connection: Connection, setting: Setting) -> None:
    os.environ |= one_rank(setting.device)
    from learner.learner import Learner
    from learner.sharding import init_process_group

    device = init_process_group(setting.device == "cuda", setting.threads, TIMEOUT_S)
    learner = Learner(setting.config(), setting.model, device)
    found = learner.packing.layout
    assert found == setting.layout, f"the model's attention allows {found}, not {setting.layout}"
    recording = _RecordingLearner(learner, setting.device)
    connection.send("ready")
    while True:
        try:
            rollouts = connection.recv()
        except EOFError:
            return
        connection.send(recording.step(rollouts))


class _RecordingLearner:
    """A learner whose teacher's scores are kept, to compare those of two layouts."""

    def __init__(self, learner: "Learner", device: str) -> None:
        self._learner, self._device = learner, device
        self._scored: tuple[RankBatch, Scores] | None = None
        score = learner.scorer.score

        def recorded(batch: "RankBatch", timer: "StepTimer") -> "Scores":
            scores = score(batch, timer)
            self._scored = batch, scores
            return scores

        learner.scorer.score = recorded  # type: ignore[method-assign]

    def step(self, rollouts: list[Rollout]) -> StepFigures:
        _return_free_memory(self._device)
        start_peak(self._device)
        started = time.perf_counter()
        result = self._learner.forward_backward(rollouts, 0)
        if self._device == "cuda":
            torch.cuda.synchronize()
        wall_s, peak = time.perf_counter() - started, peak_bytes(self._device)
        metrics = self._learner.optim_step(result)
        seconds, tokens = result.timer.seconds, result.timer.tokens
        return StepFigures(
            wall_s=wall_s,
            teacher_s=sum(seconds[view] for view in _VIEWS),
            student_s=seconds["divergence"] + seconds["gradient"],
            update_s=seconds["update"],
            teacher_tokens=sum(tokens[view] for view in _VIEWS),
            clip_tokens=tokens["divergence"],
            student_tokens=tokens["gradient"],
            passes=result.timer.forward_passes,
            peak_mib=peak / MIB,
            loss=result.loss.loss,
            gradient_norm=metrics.optimizer.grad_norm,
            logprobs=self._logprobs(),
        )

    def _logprobs(self) -> dict[int, np.ndarray]:
        assert self._scored is not None
        batch, scores = self._scored
        self._scored = None
        inputs = scores.inputs
        assert inputs.primary_N is not None
        assert inputs.auxiliary_KN is not None
        assert inputs.negative_N is not None
        logprobs_LN = torch.cat([inputs.primary_N[None], inputs.auxiliary_KN, inputs.negative_N[None]]).cpu().numpy()
        return {
            rollout.number: logprobs_LN[:, batch.starts[row] : batch.starts[row + 1]]
            for row, rollout in enumerate(batch.rollouts)
        }


def _return_free_memory(device: str) -> None:
    """What earlier steps freed is not this one's: the C library keeps it for the process until it is told."""
    if device == "cpu":
        ctypes.CDLL("libc.so.6").malloc_trim(0)

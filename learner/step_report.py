"""From what one step measured to its `StepReport`, with numbers that are the same on every rank.

Seconds, tokens and passes of the parts of one step on one rank.
"""

import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.batch import Inputs
from learner.sharding import largest, total
from learner.teacher import Movement
from unisd_rl.metrics import StepReport
from unisd_rl.objective.step import Diagnostics, ObjectiveReport

VIEWS = ("primary", "auxiliary", "negative")
READ = (*VIEWS, "divergence", "gradient")
PARTS = (*READ, "update")


class Stopwatch:
    """Adds up times and counts under the names of the step's parts.

    Views share passes, so the time of one view cannot be taken: the time of all their passes is divided among them in
    proportion to the tokens read in each.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self.tokens: Counter[str] = Counter()
        self.forwards = 0
        """Passes, with gradient and without."""
        self.computed = 0
        """Positions that those computed, padding included."""

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time of this block to `part`."""
        started = _now()
        yield
        self.seconds[part] += _now() - started

    @contextmanager
    def measure_views(self) -> Iterator[None]:
        """Divide the time of this block among the views by the tokens that are counted in it."""
        started, before = _now(), self.tokens.copy()
        yield
        seconds, read = _now() - started, {view: self.tokens[view] - before[view] for view in VIEWS}
        for view, tokens in read.items():
            self.seconds[view] += seconds * tokens / max(sum(read.values()), 1)

    def count(self, part: str, tokens: int) -> None:
        """Add tokens read."""
        self.tokens[part] += tokens

    def passed(self, inputs: Inputs) -> None:
        """Add a forward pass."""
        self.forwards += 1
        self.computed += inputs.computed


def _now() -> float:
    """On a GPU, when the work given to it is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass(frozen=True, slots=True)
class StepFindings:
    """A step before the weights change. All but `watch` is the same on every rank."""

    version: int
    diagnostics: Diagnostics
    objective: ObjectiveReport
    staleness: Tensor
    behaviour_gap: float
    watch: Stopwatch


def step_report(
    findings: StepFindings, movement: Movement, grad_norm: float, learning_rate: float, device: torch.device
) -> StepReport:
    """Put the numbers together; times are those of the slowest rank. A collective."""
    weights, objective, staleness = findings.diagnostics, findings.objective, findings.staleness
    seconds = dict(zip(PARTS, largest([findings.watch.seconds[part] for part in PARTS], device), strict=True))
    tokens = total([findings.watch.tokens[part] for part in READ], device)
    read = {part: int(count) for part, count in zip(READ, tokens, strict=True)}
    (computed,), (forwards,) = total([findings.watch.computed], device), largest([findings.watch.forwards], device)
    return StepReport(
        step=findings.version,
        loss=objective.loss,
        divergence=objective.divergence,
        divergence_p50=objective.divergence_p50,
        divergence_p95=objective.divergence_p95,
        clipped_share=objective.clipped_share,
        kappa=weights.kappa,
        weight_p05=weights.weight_p05,
        weight_median=weights.weight_median,
        weight_below_half=weights.weight_below_half,
        effective_sample_size=weights.effective_sample_size,
        contrastive_loss=objective.contrastive,
        contrastive_share=objective.contrast_active_share,
        feature_loss=objective.feature,
        likelihood_loss=objective.likelihood,
        teacher_moved=movement.moved,
        teacher_gap=movement.gap,
        grad_norm=grad_norm,
        learning_rate=learning_rate,
        tokens=weights.tokens,
        sequences=weights.sequences,
        contrasted_sequences=weights.contrasted_sequences,
        staleness_max=float(staleness.max()) if staleness.numel() else math.nan,
        staleness_mean=float(staleness.mean()) if staleness.numel() else math.nan,
        behaviour_gap_max=findings.behaviour_gap,
        primary_s=seconds["primary"],
        auxiliary_s=seconds["auxiliary"],
        negative_s=seconds["negative"],
        divergence_s=seconds["divergence"],
        gradient_s=seconds["gradient"],
        update_s=seconds["update"],
        primary_tokens=read["primary"],
        auxiliary_tokens=read["auxiliary"],
        negative_tokens=read["negative"],
        divergence_tokens=read["divergence"],
        gradient_tokens=read["gradient"],
        forwards=int(forwards),
        padding_share=1.0 - sum(read.values()) / computed,
    )

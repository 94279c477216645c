"""Token-level contrast of a right with a wrong demonstration: a hinge on the difference of two distances, in nats.

By log-probs, `max(0, margin + |s - p| - |s - n|)`: `s`, `p`, `n` are those of the target token under the student, the
teacher's primary and its negative view. The derivative in `s` is `sign(s - p) - sign(s - n)` inside the hinge: zero
unless `s` lies between `p` and `n`.

By whole distributions, `max(0, margin + D(S, P) - D(S, N))`: every entry of the vocabulary counts, and the negative
view is scored like the primary one.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from unisd_rl.config.objective import Contrast, DivergenceContrast, LogprobContrast
from unisd_rl.objective.step import Step
from unisd_rl.objective.term import Derivatives, Measure, TokenScores, TokenTerm


@dataclass(frozen=True)
class ContrastiveTerm(TokenTerm):
    """`sum_t coefficient_t hinge_t`."""

    TOTALS = ("contrasted", "active")

    coefficient_N: Tensor
    """0 for tokens of sequences without a negative view."""
    margin: float

    @abstractmethod
    def hinge(self, scores: TokenScores) -> Tensor:
        """Per token; means nothing where there is no negative view."""

    @abstractmethod
    def active(self, scores: TokenScores) -> Tensor:
        """Which tokens have a gradient that is not zero (bool)."""

    @abstractmethod
    def preference(self, scores: TokenScores) -> Tensor:
        """By how many nats the right demonstration is nearer than the wrong one; means nothing without the latter."""

    @override
    def loss(self, scores: TokenScores) -> Tensor:
        return (self.coefficient_N * self.hinge(scores)).sum()

    @override
    def token_values(self, scores: TokenScores) -> Mapping[str, Tensor]:
        preference_N = self.preference(scores)
        return {"contrast": torch.where(self.coefficient_N != 0.0, preference_N, math.nan)}

    @override
    def totals(self, scores: TokenScores) -> tuple[Tensor, ...]:
        return (self.coefficient_N != 0.0).sum(), self.active(scores).sum()

    @classmethod
    @override
    def metrics(cls, totals: Mapping[str, float], values_N: Tensor) -> dict[str, float]:
        share = totals["active"] / totals["contrasted"] if totals["contrasted"] else math.nan
        return {"contrastive_loss": totals["loss"], "contrastive_active_share": share}


def _coefficients(section: Contrast, step: Step) -> Tensor:
    return (step.shares.contrasted_N * section.weight).float()


@dataclass(frozen=True)
class LogprobContrastTerm(ContrastiveTerm):
    """By the target token's log-probs."""

    primary_N: Tensor
    negative_N: Tensor
    """Any finite number where there is no negative view."""

    @classmethod
    @override
    def of_step(cls, section: LogprobContrast, step: Step) -> "LogprobContrastTerm":
        primary_N, negative_N = step.inputs.primary_N, step.inputs.negative_N
        if primary_N is None or negative_N is None:
            absent = "primary" if primary_N is None else "negative"
            raise ValueError(f"the contrastive term needs the log-probs of the {absent} view")
        # Where there is no negative view: a nan would survive a coefficient of zero.
        finite_N = torch.where(step.shares.contrasted_N != 0, negative_N.float(), primary_N.float())
        return cls(_coefficients(section, step), section.margin, primary_N.float(), finite_N)

    @override
    def hinge(self, scores: TokenScores) -> Tensor:
        return hinge(scores.logprob_N, self.primary_N, self.negative_N, self.margin)

    @override
    def preference(self, scores: TokenScores) -> Tensor:
        return self.primary_N - self.negative_N

    @override
    def active(self, scores: TokenScores) -> Tensor:
        return self._slope(scores) != 0.0

    @override
    def derivatives(self, scores: TokenScores) -> Derivatives:
        return Derivatives(logprob_N=self._slope(scores))

    def _slope(self, scores: TokenScores) -> Tensor:
        return self.coefficient_N * hinge_slope(scores.logprob_N, self.primary_N, self.negative_N, self.margin)


@dataclass(frozen=True)
class DivergenceContrastTerm(ContrastiveTerm):
    """By whole distributions."""

    primary: Measure
    negative: Measure

    @classmethod
    @override
    def of_step(cls, section: DivergenceContrast, step: Step) -> "DivergenceContrastTerm":
        divergence = section.divergence
        primary, negative = Measure(divergence, "primary"), Measure(divergence, "negative")
        return cls(_coefficients(section, step), section.margin, primary, negative)

    @property
    @override
    def measures(self) -> tuple[Measure, ...]:
        return (self.primary, self.negative)

    @override
    def hinge(self, scores: TokenScores) -> Tensor:
        gap_N = scores.divergences[self.primary] - scores.divergences[self.negative]
        return (gap_N + self.margin).clamp(min=0.0)

    @override
    def preference(self, scores: TokenScores) -> Tensor:
        return scores.divergences[self.negative] - scores.divergences[self.primary]

    @override
    def active(self, scores: TokenScores) -> Tensor:
        return (self.hinge(scores) > 0.0) & (self.coefficient_N != 0.0)

    @override
    def derivatives(self, scores: TokenScores) -> Derivatives:
        slope_N = self.coefficient_N * self.active(scores)
        return Derivatives(divergences={self.primary: slope_N, self.negative: -slope_N})


def hinge(student_N: Tensor, primary_N: Tensor, negative_N: Tensor, margin: float) -> Tensor:
    """The hinge on log-probs, per token."""
    return _argument(student_N, primary_N, negative_N, margin).clamp(min=0.0)


def hinge_slope(student_N: Tensor, primary_N: Tensor, negative_N: Tensor, margin: float) -> Tensor:
    """Its derivative in the student's log-prob: one of -2, -1, 0, 1, 2; 0 at and below the hinge's corner."""
    slope_N = torch.sign(student_N - primary_N) - torch.sign(student_N - negative_N)
    return slope_N * (_argument(student_N, primary_N, negative_N, margin) > 0)


def _argument(student_N: Tensor, primary_N: Tensor, negative_N: Tensor, margin: float) -> Tensor:
    return (student_N - primary_N).abs() - (student_N - negative_N).abs() + margin

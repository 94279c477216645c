"""The divergence term: the student is drawn to the teacher that read the demonstration, at every token.

`L = sum_t c_t min(D(S_t, P_t), threshold)`. The agreement weights and all means are inside the coefficients `c`; which
tokens lie above the clip threshold is settled before the first gradient where it is a quantile.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from unisd_rl.config.objective import Divergence, SequenceAgreement, TokenAgreement
from unisd_rl.metrics import WeightMetrics
from unisd_rl.objective.agreement import StepWeights, equal_step_weights, sequence_step_weights, token_step_weights
from unisd_rl.objective.clipping import clipped, quantile_threshold, unclipped
from unisd_rl.objective.reduction import quantile
from unisd_rl.objective.reference_reductions import reference_step_weights
from unisd_rl.objective.step import Step
from unisd_rl.objective.term import Derivatives, Measure, TokenScores, TokenTerm

NO_WEIGHTS = WeightMetrics(
    weight_mean=math.nan,
    weight_p05=1.0,
    weight_median=1.0,
    weight_below_half=0.0,
    effective_sample_size=1.0,
    disagreement_scale=math.nan,
    clip_threshold=math.nan,
)
"""What is reported without a divergence term."""


@dataclass(frozen=True)
class DivergenceTerm(TokenTerm):
    """`sum_t divergence_coefficient_t min(D_t, clip_threshold)`."""

    TOTALS = ("clipped",)

    measure: Measure
    divergence_coefficient_N: Tensor
    clip_threshold: float | None
    """Nats; None clips nothing."""
    unclipped_N: Tensor | None
    """Which tokens keep their gradient (bool), settled once if the threshold is a quantile; None: `D <= threshold`."""
    weights: WeightMetrics
    """Of the whole step."""
    weight_N: Tensor | None = None
    """The agreement weights, which the coefficients contain: 1 without agreement. None: not told."""

    @classmethod
    @override
    def of_step(cls, section: Divergence, step: Step) -> "DivergenceTerm":
        weights = agreement_weights(step)
        threshold, unclipped_N = _clip(step)
        return cls(
            measure=Measure(section, "primary"),
            divergence_coefficient_N=weights.share_N.float(),
            clip_threshold=threshold,
            unclipped_N=unclipped_N,
            weights=_weight_metrics(weights, threshold),
            weight_N=weights.weight_N,
        )

    @property
    @override
    def measures(self) -> tuple[Measure, ...]:
        return (self.measure,)

    @override
    def loss(self, scores: TokenScores) -> Tensor:
        return (self.divergence_coefficient_N * clipped(scores.divergences[self.measure], self.clip_threshold)).sum()

    @override
    def derivatives(self, scores: TokenScores) -> Derivatives:
        return Derivatives(divergences={self.measure: self.divergence_coefficient_N * self._unclipped(scores)})

    @override
    def totals(self, scores: TokenScores) -> tuple[Tensor, ...]:
        return ((~self._unclipped(scores)).sum(),)

    @override
    def values(self, scores: TokenScores) -> Tensor:
        return scores.divergences[self.measure]

    @override
    def token_values(self, scores: TokenScores) -> Mapping[str, Tensor]:
        divergence_N = scores.divergences[self.measure]
        return {"divergence": divergence_N} | ({} if self.weight_N is None else {"weight": self.weight_N})

    @classmethod
    @override
    def metrics(cls, totals: Mapping[str, float], values_N: Tensor) -> dict[str, float]:
        divergence_N, tokens = values_N.double(), values_N.numel()
        return {
            "divergence_loss": totals["loss"],
            "divergence": float(divergence_N.sum()) / tokens if tokens else math.nan,
            "divergence_p50": quantile(divergence_N, 0.5) if tokens else math.nan,
            "divergence_p95": quantile(divergence_N, 0.95) if tokens else math.nan,
            "clipped_share": totals["clipped"] / tokens if tokens else math.nan,
        }

    def _unclipped(self, scores: TokenScores) -> Tensor:
        if self.unclipped_N is not None:
            return self.unclipped_N
        return unclipped(scores.divergences[self.measure], self.clip_threshold)


def agreement_weights(step: Step) -> StepWeights:
    """What each of this rank's tokens weighs in the divergence term. A collective.

    Raises ValueError where agreement is on and there are fewer than two auxiliary views.
    """
    agreement, auxiliary_KN = step.settings.agreement, step.inputs.auxiliary_KN
    if agreement is None:
        return equal_step_weights(step.shares.mean_N)
    if auxiliary_KN is None:
        raise ValueError("agreement needs the log-probs of the auxiliary views")
    if len(auxiliary_KN) < 2:
        raise ValueError(f"agreement compares auxiliary views: {len(auxiliary_KN)} is too few, at least 2")
    views = (auxiliary_KN, step.inputs.sequence_N)
    if step.batch_S is not None:
        shares = (step.batch_S, step.count_S, step.shares.mean_N)
        return reference_step_weights(*views, *shares, agreement, step.gather)
    if isinstance(agreement, TokenAgreement):
        return token_step_weights(*views, step.count_S, step.counts.sequences, agreement, step.gather)
    assert isinstance(agreement, SequenceAgreement)
    return sequence_step_weights(*views, step.count_S, agreement, step.gather)


def _clip(step: Step) -> tuple[float | None, Tensor | None]:
    """The threshold, and for a quantile which of this rank's tokens stay at or below it."""
    clipping, divergence_N = step.settings.clipping, step.inputs.divergence_N
    if clipping is None or clipping.quantile is None:
        return (None if clipping is None else clipping.threshold), None
    if divergence_N is None:
        raise ValueError("a quantile clip needs the divergences of the whole step before the first gradient")
    threshold = quantile_threshold(step.gather(divergence_N), clipping.quantile)
    return threshold, unclipped(divergence_N, threshold)


def _weight_metrics(weights: StepWeights, threshold: float | None) -> WeightMetrics:
    units = weights.units if weights.units.numel() else weights.units.new_ones(1)
    return WeightMetrics(
        weight_mean=float(weights.units.mean()),
        weight_p05=quantile(units, 0.05),
        weight_median=quantile(units, 0.5),
        weight_below_half=float((units < 0.5).double().mean()),
        effective_sample_size=weights.effective_sample_size,
        disagreement_scale=weights.scale,
        clip_threshold=math.nan if threshold is None else threshold,
    )

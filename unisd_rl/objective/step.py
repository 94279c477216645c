"""What the views said about one rank's share of a step: the learner fills it, `unisd.step_terms` reads it.

One coefficient per token: what the gradient pass needs to know about the rest of the step, and nothing more.

The loss of the step is `sum_t main_t min(D_t, kappa) + contrastive_t hinge_t + feature_t err_t - likelihood_t s_t` over
all tokens t of all micro-batches on all ranks; weights, denominators and lambdas are inside the coefficients.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unisd_rl.config.objective import LogprobContrast, ObjectiveSettings
from unisd_rl.metrics import BatchCounts, LossMetrics, WeightMetrics
from unisd_rl.objective.reduction import Gather, global_sums, quantile


@dataclass(frozen=True)
class TokenSignals:
    """This rank's whole share of one optimiser step, all micro-batches concatenated, without gradient."""

    sequence_N: Tensor
    """long: index of each token's sequence on this rank."""
    sequences: int
    """How many sequences this rank has; those without tokens count nowhere."""
    primary_N: Tensor | None
    """Log-prob of the realised token under the teacher's primary view; needed for contrast on log-probs."""
    auxiliary_KN: Tensor | None
    """The same under each auxiliary view; needed for agreement."""
    negative_N: Tensor | None
    """The same under the negative view; any value, also nan, in sequences without one. Needed like `primary_N`."""
    has_negative_S: Tensor | None
    """bool: which sequences have a negative view; None: all of them."""
    divergence_N: Tensor | None
    """From `token_divergence`; needed for a quantile clip."""
    order_S: Tensor | None = None
    """long: place of each sequence among this rank's prompts, 0 .. sequences - 1; None: the order of the indices. Only
    the released reductions read it, to say which sequences form a micro-batch."""


def check_signals(signals: TokenSignals, settings: ObjectiveSettings) -> None:
    """Raises ValueError where the settings need a signal that is absent, or one cannot be what it says."""
    if settings.weighting is not None:
        if signals.auxiliary_KN is None:
            raise ValueError("agreement needs the log-probs of the auxiliary views")
        if len(signals.auxiliary_KN) < 2:
            raise ValueError(f"agreement compares auxiliary views: {len(signals.auxiliary_KN)} is too few, at least 2")
    if isinstance(settings.contrastive, LogprobContrast):
        for name, logprob_N in (("primary", signals.primary_N), ("negative", signals.negative_N)):
            if logprob_N is None:
                raise ValueError(f"the contrastive term needs the log-probs of the {name} view")
    if settings.needs_divergence_pass and signals.divergence_N is None:
        raise ValueError("a quantile clip needs the divergences of the whole step before the first gradient")
    if signals.order_S is not None:
        places = torch.arange(signals.sequences, device=signals.order_S.device)
        if not torch.equal(signals.order_S.sort().values, places):
            raise ValueError(f"order_S must hold each of the places 0 .. {signals.sequences - 1} once")


@dataclass(frozen=True)
class MicroReport:
    """What one gradient pass measured, as sums over its tokens: add them up over micro-batches and ranks."""

    main: float
    """The main term's contribution to the loss of the step."""
    contrastive: float
    """The contrastive term's contribution, lambda_c included."""
    feature: float
    """The feature term's contribution, lambda_f included."""
    likelihood: float
    """The likelihood term's contribution, lambda_l included."""
    clipped_tokens: int
    """Tokens whose divergence lost its gradient to clipping."""
    contrasted_tokens: int
    """Tokens that have a negative view."""
    contrast_active_tokens: int
    """Those of them with a non-zero contrastive gradient."""
    divergence_N: Tensor
    """Divergence before clipping (nats); empty where the main term is off."""
    student_logprob_N: Tensor
    """Log-prob of the realised token under the student at the objective's temperature."""


def loss_metrics(reports: Sequence[MicroReport], gather: Gather, device: torch.device) -> LossMetrics:
    """Add up this rank's micro-batches and all ranks. A collective of two gathers, also for a rank without reports.

    Shares and quantiles are nan where there are no tokens to speak of.
    """
    local = torch.tensor([_sums(report) for report in reports], dtype=torch.float64, device=device).view(-1, 7).sum(0)
    *parts, clipped, contrasted, active = global_sums(local, gather).tolist()
    nothing = torch.empty(0, device=device)
    divergence_N = gather(torch.cat([nothing, *(report.divergence_N for report in reports)])).double()
    main, contrastive, feature, likelihood = parts
    return LossMetrics(
        loss=sum(parts),
        divergence_loss=main,
        contrastive_loss=contrastive,
        matching_loss=feature,
        likelihood_loss=likelihood,
        divergence=_share(float(divergence_N.sum()), divergence_N.numel()),
        divergence_p50=_quantile(divergence_N, 0.5),
        divergence_p95=_quantile(divergence_N, 0.95),
        clipped_share=_share(clipped, divergence_N.numel()),
        contrastive_active_share=_share(active, contrasted),
    )


def _sums(report: MicroReport) -> tuple[float, ...]:
    return (
        report.main,
        report.contrastive,
        report.feature,
        report.likelihood,
        report.clipped_tokens,
        report.contrasted_tokens,
        report.contrast_active_tokens,
    )


def _quantile(values_N: Tensor, fraction: float) -> float:
    return quantile(values_N, fraction) if values_N.numel() else math.nan


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


@dataclass(frozen=True)
class TokenTerms:
    """The coefficients of some tokens: float32 vectors without gradient."""

    main_N: Tensor
    """Factor of the clipped divergence."""
    contrastive_N: Tensor
    """Factor of the hinge; 0 for tokens of sequences without a negative view."""
    feature_N: Tensor
    """Factor of the feature error."""
    primary_N: Tensor
    """Log-prob of the realised token under the teacher's primary view; zeros where nothing reads it."""
    negative_N: Tensor
    """The same under the negative view; any finite number where there is none."""
    likelihood_N: Tensor
    """Factor of minus the realised token's log-prob under the student."""
    kappa: float | None
    """Clip threshold in nats; None clips nothing."""
    kept_N: Tensor | None
    """Which tokens keep their divergence's gradient (bool), decided once if kappa is a quantile; None: `D <= kappa`."""

    def slice(self, start: int, stop: int) -> "TokenTerms":
        """The coefficients of tokens `start .. stop - 1`."""
        part = slice(start, stop)
        return TokenTerms(
            self.main_N[part],
            self.contrastive_N[part],
            self.feature_N[part],
            self.primary_N[part],
            self.negative_N[part],
            self.likelihood_N[part],
            self.kappa,
            None if self.kept_N is None else self.kept_N[part],
        )


@dataclass(frozen=True)
class StepTerms(TokenTerms):
    """The coefficients of this rank's whole share of a step; `slice` gives those of a micro-batch."""

    weight_N: Tensor
    """Agreement weight of each token; ones where agreement is off."""
    metrics: WeightMetrics
    counts: BatchCounts
    """Both are of the whole step: the same on every rank and layout."""

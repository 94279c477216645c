"""Numbers that say whether each mechanism acts, global ones: the same on any layout of ranks and micro-batches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unisd_rl.objective.reduction import Gather, global_sums, quantile


@dataclass(frozen=True)
class Diagnostics:
    """What is known before the first gradient. Weights are per token, under sequence agreement per sequence."""

    weight_p05: float
    """5th percentile of the agreement weights; 1 where agreement is off, as for the next three."""
    weight_median: float
    weight_below_half: float
    """Share of weights under 0.5."""
    effective_sample_size: float
    """`(sum w)^2 / sum w^2 / count`: 1 when all weights are equal."""
    disagreement_scale: float
    """The number that disagreements are measured against; nan without token agreement."""
    kappa: float
    """Clip threshold in nats; nan where nothing is clipped."""
    divergence_p50: float
    """Median divergence; nan unless a quantile clip made the divergences known before the gradient."""
    divergence_p95: float
    tokens: int
    sequences: int
    """Sequences that have tokens."""
    contrasted_sequences: int
    """Those of them that have a negative view."""


@dataclass(frozen=True)
class MicroReport:
    """What one gradient pass measured, as sums over its tokens: add them up over micro-batches and ranks."""

    main: float
    """The main term's contribution to the loss of the step."""
    contrastive: float
    """The contrastive term's contribution, lambda_c included."""
    feature: float
    """The feature term's contribution, lambda_f included."""
    divergence_sum: float
    """Sum of the divergences before clipping (nats)."""
    clipped_tokens: int
    """Tokens whose divergence lost its gradient to clipping."""
    contrasted_tokens: int
    """Tokens that have a negative view."""
    contrast_active_tokens: int
    """Those of them with a non-zero contrastive gradient."""
    tokens: int
    divergence_N: Tensor
    """Divergence before clipping (nats); zeros where the main term is off."""
    student_logprob_N: Tensor
    """Log-prob of the realised token under the student at the objective's temperature."""


@dataclass(frozen=True)
class ObjectiveReport:
    """The step's gradient passes together; shares and quantiles are nan where there are no tokens to speak of."""

    loss: float
    main: float
    contrastive: float
    feature: float
    divergence: float
    """Mean over tokens, before clipping (nats)."""
    divergence_p50: float
    divergence_p95: float
    clipped_share: float
    contrast_active_share: float
    """Share of the tokens with a negative view that have a non-zero contrastive gradient."""
    tokens: int


def objective_report(reports: Sequence[MicroReport], gather: Gather, device: torch.device) -> ObjectiveReport:
    """Add up this rank's micro-batches and all ranks. A collective of two gathers, also for a rank without reports."""
    local = torch.tensor([_sums(report) for report in reports], dtype=torch.float64, device=device).view(-1, 8).sum(0)
    main, contrastive, feature, divergence, clipped, contrasted, active, tokens = global_sums(local, gather).tolist()
    nothing = torch.empty(0, device=device)
    divergence_N = gather(torch.cat([nothing, *(report.divergence_N for report in reports)]))
    return ObjectiveReport(
        loss=main + contrastive + feature,
        main=main,
        contrastive=contrastive,
        feature=feature,
        divergence=_share(divergence, tokens),
        divergence_p50=quantile_or_nan(divergence_N, 0.5),
        divergence_p95=quantile_or_nan(divergence_N, 0.95),
        clipped_share=_share(clipped, tokens),
        contrast_active_share=_share(active, contrasted),
        tokens=int(tokens),
    )


def quantile_or_nan(values_N: Tensor | None, fraction: float) -> float:
    """The quantile, or nan of no values."""
    return math.nan if values_N is None or not values_N.numel() else quantile(values_N, fraction)


def _sums(report: MicroReport) -> tuple[float, ...]:
    return (
        report.main,
        report.contrastive,
        report.feature,
        report.divergence_sum,
        report.clipped_tokens,
        report.contrasted_tokens,
        report.contrast_active_tokens,
        report.tokens,
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan

"""The whole objective: from what all views said about a step's tokens to one loss per micro-batch.

`step_terms` runs once per optimiser step and rank, on all micro-batches together; it is where ranks meet (`gather`) and
where every global number is made: scale, kappa, weights, denominators. `micro_batch_loss` runs per micro-batch and
meets nobody. The sum of all micro-batches' losses over all ranks is the loss L of the step, so gradients are to be
summed, not averaged.
"""

import math

import torch
from torch import Tensor

from unisd_rl.config.objective import ObjectiveSettings, SequenceAgreement, TokenAgreement
from unisd_rl.metrics import BatchCounts, WeightMetrics
from unisd_rl.objective.agreement import StepWeights, equal_step_weights, sequence_step_weights, token_step_weights
from unisd_rl.objective.clipping import clip_threshold, clipped, keeps_gradient
from unisd_rl.objective.kernels.chunked import ScoredTokens, scored_tokens
from unisd_rl.objective.kernels.head import Head
from unisd_rl.objective.matching import feature_error
from unisd_rl.objective.reduction import Gather, Shares, global_shares, quantile, step_counts, token_counts
from unisd_rl.objective.reference_reductions import micro_batches, released_shares, released_step_weights
from unisd_rl.objective.step import MicroReport, StepTerms, TokenSignals, TokenTerms, check_signals

__all__ = ["Gather", "StepTerms", "TokenSignals", "TokenTerms", "micro_batch_loss", "step_terms"]


@torch.no_grad()
def step_terms(signals: TokenSignals, settings: ObjectiveSettings, gather: Gather) -> StepTerms:
    """The coefficients of this rank's tokens; a collective whose gathers depend on the settings only.

    Raises ValueError where the settings need a signal that is absent.
    """
    check_signals(signals, settings)
    count_S = token_counts(signals.sequence_N, signals.sequences)
    contrasted_S = _contrasted(signals, count_S, settings)
    counts = step_counts(count_S, contrasted_S, gather)
    weights, shares = _reduce(signals, settings, count_S, contrasted_S, counts, gather)
    contrastive_N = shares.contrasted_N * (settings.contrastive.weight if settings.contrastive else 0.0)
    kappa, kept_N = _clip(signals, settings, gather)
    primary_N, negative_N = _realised(signals, shares)
    return StepTerms(
        main_N=(weights.share_N * (settings.alpha is not None)).float(),
        contrastive_N=contrastive_N.float(),
        feature_N=(shares.whole_N * (settings.matching.weight if settings.matching else 0.0)).float(),
        primary_N=primary_N,
        negative_N=negative_N,
        likelihood_N=(shares.whole_N * (settings.likelihood.weight if settings.likelihood else 0.0)).float(),
        kappa=kappa,
        kept_N=kept_N,
        weight_N=weights.weight_N.float(),
        metrics=_weight_metrics(weights, kappa),
        counts=counts,
    )


def micro_batch_loss(
    student_NH: Tensor,
    student_head: Head,
    teacher_NH: Tensor | None,
    teacher_head: Head | None,
    targets_N: Tensor,
    terms: TokenTerms,
    settings: ObjectiveSettings,
    negative_NH: Tensor | None = None,
) -> tuple[Tensor, MicroReport]:
    """This micro-batch's part of the loss, 0-d float32 with gradient to `student_NH` and the student's head.

    `student_NH`, `teacher_NH`, `negative_NH` are the final hidden states (after the last norm) at the positions that
    predict `targets_N`, the teacher's from the primary and from the negative view; `terms` is `StepTerms.slice` of
    these tokens. The teacher's states are needed by the main term, by matching and by contrast on divergences (its head
    by the first and the last), the negative view's by the last; rows of `negative_NH` in sequences without a negative
    view may hold any finite numbers. No tokens: a zero loss with a gradient path.
    """
    scored = scored_tokens(student_NH, student_head, teacher_NH, teacher_head, targets_N, terms, settings, negative_NH)
    loss, feature = scored.loss, torch.zeros_like(scored.loss)
    if settings.matching is not None:
        if teacher_NH is None:
            raise ValueError("feature matching needs the teacher's hidden states")
        feature = (terms.feature_N * feature_error(student_NH, teacher_NH)).sum()
        loss = loss + feature
    return loss, _report(scored, feature.detach(), terms, settings)


@torch.no_grad()
def _report(scored: ScoredTokens, feature: Tensor, terms: TokenTerms, settings: ObjectiveSettings) -> MicroReport:
    divergence_N, kappa = scored.divergence_N, terms.kappa
    kept_N = keeps_gradient(divergence_N, kappa) if terms.kept_N is None else terms.kept_N
    sums = (
        (terms.main_N * clipped(divergence_N, kappa)).sum(),
        (terms.contrastive_N * scored.hinge_N).sum(),
        feature,
        -(terms.likelihood_N * scored.student_logprob_N).sum(),
        (~kept_N).sum(),
        (terms.contrastive_N != 0).sum(),
        scored.contrast_active_N.sum(),
    )
    # One transfer from the device for all of them.
    main, contrastive, matching, likelihood, lost, contrasted, active = torch.stack(
        [one.double() for one in sums]
    ).tolist()
    return MicroReport(
        main=main,
        contrastive=contrastive,
        feature=matching,
        likelihood=likelihood,
        clipped_tokens=int(lost),
        contrasted_tokens=int(contrasted),
        contrast_active_tokens=int(active),
        divergence_N=divergence_N[: 0 if settings.alpha is None else None],
        student_logprob_N=scored.student_logprob_N,
    )


def _contrasted(signals: TokenSignals, count_S: Tensor, settings: ObjectiveSettings) -> Tensor:
    """Which sequences have tokens and a negative view."""
    if settings.contrastive is None:
        return torch.zeros_like(count_S, dtype=torch.bool)
    return count_S > 0 if signals.has_negative_S is None else (count_S > 0) & signals.has_negative_S


def _reduce(
    signals: TokenSignals,
    settings: ObjectiveSettings,
    count_S: Tensor,
    contrasted_S: Tensor,
    counts: BatchCounts,
    gather: Gather,
) -> tuple[StepWeights, Shares]:
    """The agreement weights, and what a token counts in each mean."""
    if settings.reference_reductions is not None:
        batch_S = micro_batches(signals, settings.reference_reductions.micro_batch_size)
        shares = released_shares(signals, batch_S, count_S, contrasted_S, gather)
        return released_step_weights(signals, batch_S, count_S, shares, settings, gather), shares
    shares = global_shares(signals.sequence_N, count_S, contrasted_S, counts)
    return _weights(signals, settings, count_S, shares, counts, gather), shares


def _weights(
    signals: TokenSignals,
    settings: ObjectiveSettings,
    count_S: Tensor,
    shares: Shares,
    counts: BatchCounts,
    gather: Gather,
) -> StepWeights:
    agreement = settings.weighting
    if agreement is None:
        return equal_step_weights(shares.whole_N)
    assert signals.auxiliary_KN is not None
    views = (signals.auxiliary_KN, signals.sequence_N, count_S)
    if isinstance(agreement, TokenAgreement):
        return token_step_weights(*views, counts.sequences, agreement, gather)
    assert isinstance(agreement, SequenceAgreement)
    return sequence_step_weights(*views, agreement, gather)


def _clip(signals: TokenSignals, settings: ObjectiveSettings, gather: Gather) -> tuple[float | None, Tensor | None]:
    """kappa, and for a quantile which of this rank's tokens stay at or below it."""
    clipping = settings.clipping
    if clipping is None or clipping.quantile is None or settings.divergence is None:
        return (None if clipping is None else clipping.threshold), None
    assert signals.divergence_N is not None
    kappa = clip_threshold(gather(signals.divergence_N), clipping.quantile)
    return kappa, keeps_gradient(signals.divergence_N, kappa)


def _realised(signals: TokenSignals, shares: Shares) -> tuple[Tensor, Tensor]:
    """Log-probs of the primary and the negative view, finite everywhere: a nan would survive a coefficient of zero."""
    nothing_N = torch.zeros_like(shares.whole_N, dtype=torch.float32)
    primary_N = nothing_N if signals.primary_N is None else signals.primary_N.float()
    if signals.negative_N is None:
        return primary_N, primary_N
    return primary_N, torch.where(shares.contrasted_N != 0, signals.negative_N.float(), primary_N)


def _weight_metrics(weights: StepWeights, kappa: float | None) -> WeightMetrics:
    units = weights.units if weights.units.numel() else weights.units.new_ones(1)
    return WeightMetrics(
        weight_p05=quantile(units, 0.05),
        weight_median=quantile(units, 0.5),
        weight_below_half=float((units < 0.5).double().mean()),
        effective_sample_size=weights.effective_sample_size,
        disagreement_scale=weights.scale,
        clip_threshold=math.nan if kappa is None else kappa,
    )

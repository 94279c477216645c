"""The whole objective: from what all views said about a step's tokens to one loss per micro-batch.

`step_terms` runs once per optimiser step and rank, on all micro-batches together; it is where ranks meet (`gather`) and
where every global number is made: scale, kappa, weights, denominators. `micro_batch_loss` runs per micro-batch and
meets nobody. The sum of all micro-batches' losses over all ranks is the loss L of the step, so gradients are to be
summed, not averaged.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unisd_rl.objective.agreement import StepWeights, equal_step_weights, sequence_step_weights, token_step_weights
from unisd_rl.objective.chunked import scored_tokens
from unisd_rl.objective.clipping import clip_threshold, clipped, keeps_gradient
from unisd_rl.objective.contrastive import hinge
from unisd_rl.objective.diagnostics import Diagnostics, MicroReport, quantile_or_nan
from unisd_rl.objective.head import Head
from unisd_rl.objective.matching import feature_error
from unisd_rl.objective.reduction import Gather, global_sums, quantile, token_counts
from unisd_rl.objective.settings import ObjectiveSettings, TokenAgreement
from unisd_rl.objective.terms import StepTerms, TokenTerms

__all__ = ["Gather", "StepTerms", "TokenSignals", "TokenTerms", "micro_batch_loss", "step_terms"]


@dataclass(frozen=True)
class TokenSignals:
    """This rank's whole share of one optimiser step, all micro-batches concatenated, without gradient."""

    sequence_N: Tensor
    """long: index of each token's sequence on this rank."""
    sequences: int
    """How many sequences this rank has; those without tokens count nowhere."""
    primary_N: Tensor
    """Log-prob of the realised token under the teacher's primary view."""
    auxiliary_KN: Tensor | None
    """The same under each auxiliary view; needed for agreement."""
    negative_N: Tensor | None
    """The same under the negative view; any value, also nan, in sequences without one. Needed for contrast."""
    has_negative_S: Tensor | None
    """bool: which sequences have a negative view; None: all of them."""
    divergence_N: Tensor | None
    """From `token_divergence`; needed for a quantile clip."""


@torch.no_grad()
def step_terms(signals: TokenSignals, settings: ObjectiveSettings, gather: Gather) -> StepTerms:
    """The coefficients of this rank's tokens; a collective whose gathers depend on the settings only.

    Raises ValueError where the settings need a signal that is absent.
    """
    _check(signals, settings)
    count_S = token_counts(signals.sequence_N, signals.sequences)
    contrasted_S = _contrasted(signals, count_S, settings)
    local = torch.stack([count_S.sum(), (count_S > 0).double().sum(), contrasted_S.double().sum()])
    tokens, sequences, contrasted = global_sums(local, gather).tolist()
    per_token_N = 1.0 / count_S[signals.sequence_N]
    weights = _weights(signals, settings, count_S, sequences, gather)
    contrastive_N = torch.zeros_like(per_token_N)
    if settings.contrastive is not None and contrasted:
        contrastive_N = per_token_N * contrasted_S[signals.sequence_N] * (settings.contrastive.weight / contrasted)
    feature_N = per_token_N * ((settings.matching_weight or 0.0) / max(sequences, 1.0))
    likelihood_N = per_token_N * ((settings.likelihood_weight or 0.0) / max(sequences, 1.0))
    kappa, kept_N, divergence_N = _clip(signals, settings, gather)
    primary_N = signals.primary_N.float()
    return StepTerms(
        main_N=(weights.share_N if settings.alpha is not None else torch.zeros_like(per_token_N)).float(),
        contrastive_N=contrastive_N.float(),
        feature_N=feature_N.float(),
        primary_N=primary_N,
        negative_N=_negative(signals, primary_N, contrastive_N),
        likelihood_N=likelihood_N.float(),
        kappa=kappa,
        kept_N=kept_N,
        weight_N=weights.weight_N.float(),
        diagnostics=_diagnostics(weights, kappa, divergence_N, (int(tokens), int(sequences), int(contrasted))),
    )


def micro_batch_loss(
    student_NH: Tensor,
    student_head: Head,
    teacher_NH: Tensor | None,
    teacher_head: Head | None,
    targets_N: Tensor,
    terms: TokenTerms,
    settings: ObjectiveSettings,
) -> tuple[Tensor, MicroReport]:
    """This micro-batch's part of the loss, 0-d float32 with gradient to `student_NH` and the student's head.

    `student_NH`, `teacher_NH` are the final hidden states (after the last norm) at the positions that predict
    `targets_N`, the teacher's from the primary view; `terms` is `StepTerms.slice` of these tokens. The teacher's may be
    None where neither the main term nor matching is on. No tokens: a zero loss with a gradient path.
    """
    scored = scored_tokens(student_NH, student_head, teacher_NH, teacher_head, targets_N, terms, settings)
    loss, feature = scored.loss, torch.zeros_like(scored.loss)
    if settings.matching_weight is not None:
        if teacher_NH is None:
            raise ValueError("feature matching needs the teacher's hidden states")
        feature = (terms.feature_N * feature_error(student_NH, teacher_NH)).sum()
        loss = loss + feature
    with torch.no_grad():
        divergence_N, kappa = scored.divergence_N, terms.kappa
        kept_N = keeps_gradient(divergence_N, kappa) if terms.kept_N is None else terms.kept_N
        sums = (
            (terms.main_N * clipped(divergence_N, kappa)).sum(),
            _contrastive_loss(scored.student_logprob_N, terms, settings),
            feature,
            divergence_N.sum(),
            (~kept_N).sum(),
            (terms.contrastive_N != 0).sum(),
            scored.contrast_active_N.sum(),
        )
        main, contrastive, matching, divergence, lost, contrasted, active = torch.stack(
            [value.double() for value in sums]
        ).tolist()
    report = MicroReport(
        main=main,
        contrastive=contrastive,
        feature=matching,
        divergence_sum=divergence,
        clipped_tokens=int(lost),
        contrasted_tokens=int(contrasted),
        contrast_active_tokens=int(active),
        tokens=len(targets_N),
        divergence_N=divergence_N,
        student_logprob_N=scored.student_logprob_N,
    )
    return loss, report


def _contrastive_loss(logprob_N: Tensor, terms: TokenTerms, settings: ObjectiveSettings) -> Tensor:
    if settings.contrastive is None:
        return logprob_N.new_zeros(())
    hinge_N = hinge(logprob_N, terms.primary_N, terms.negative_N, settings.contrastive.margin)
    return (terms.contrastive_N * hinge_N).sum()


def _check(signals: TokenSignals, settings: ObjectiveSettings) -> None:
    if settings.alpha is not None and settings.agreement is not None and signals.auxiliary_KN is None:
        raise ValueError("agreement needs the log-probs of the auxiliary views")
    if settings.contrastive is not None and signals.negative_N is None:
        raise ValueError("the contrastive term needs the log-probs of the negative view")
    if settings.needs_divergence_pass and signals.divergence_N is None:
        raise ValueError("a quantile clip needs the divergences of the whole step before the first gradient")


def _contrasted(signals: TokenSignals, count_S: Tensor, settings: ObjectiveSettings) -> Tensor:
    """Which sequences have tokens and a negative view."""
    if settings.contrastive is None:
        return torch.zeros_like(count_S, dtype=torch.bool)
    return count_S > 0 if signals.has_negative_S is None else (count_S > 0) & signals.has_negative_S


def _negative(signals: TokenSignals, primary_N: Tensor, contrastive_N: Tensor) -> Tensor:
    """The negative view's log-probs, finite everywhere: a nan would survive its coefficient of zero."""
    if signals.negative_N is None:
        return primary_N
    return torch.where(contrastive_N != 0, signals.negative_N.float(), primary_N)


def _clip(
    signals: TokenSignals, settings: ObjectiveSettings, gather: Gather
) -> tuple[float | None, Tensor | None, Tensor | None]:
    """kappa; which of this rank's tokens stay at or below it; all ranks' divergences, where they are known."""
    if not settings.needs_divergence_pass:
        return settings.clip_threshold, None, None
    assert signals.divergence_N is not None
    assert settings.clip_quantile is not None
    gathered_N = gather(signals.divergence_N)
    kappa = clip_threshold(gathered_N, settings.clip_quantile)
    return kappa, keeps_gradient(signals.divergence_N, kappa), gathered_N


def _weights(
    signals: TokenSignals, settings: ObjectiveSettings, count_S: Tensor, sequences: float, gather: Gather
) -> StepWeights:
    agreement = settings.agreement if settings.alpha is not None else None
    if agreement is None:
        return equal_step_weights(signals.sequence_N, count_S, sequences)
    assert signals.auxiliary_KN is not None
    if isinstance(agreement, TokenAgreement):
        return token_step_weights(signals.auxiliary_KN, signals.sequence_N, count_S, sequences, agreement, gather)
    return sequence_step_weights(signals.auxiliary_KN, signals.sequence_N, count_S, agreement, gather)


def _diagnostics(
    weights: StepWeights, kappa: float | None, divergence_N: Tensor | None, counts: tuple[int, int, int]
) -> Diagnostics:
    units = weights.units if weights.units.numel() else weights.units.new_ones(1)
    tokens, sequences, contrasted = counts
    return Diagnostics(
        weight_p05=quantile(units, 0.05),
        weight_median=quantile(units, 0.5),
        weight_below_half=float((units < 0.5).double().mean()),
        effective_sample_size=weights.effective_sample_size,
        disagreement_scale=weights.scale,
        kappa=math.nan if kappa is None else kappa,
        divergence_p50=quantile_or_nan(divergence_N, 0.5),
        divergence_p95=quantile_or_nan(divergence_N, 0.95),
        tokens=tokens,
        sequences=sequences,
        contrasted_sequences=contrasted,
    )

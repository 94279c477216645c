"""Multi-teacher agreement: how far to trust a token, or a whole completion, from how well informed views agree.

`a_{k,t}` is the log-probability of the target token under auxiliary view k. Weights are detached numbers. Computed in
float64: views that agree at log-probabilities of any size then have a disagreement of exactly zero.

The `*_step_weights` functions give each token its weight divided by all denominators, per sequence and global, so that
`sum_t share_t D_t` over all ranks is the main term. They are collectives where they take a `gather`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unisd_rl.config.objective import SequenceAgreement, TokenAgreement
from unisd_rl.objective.reduction import Gather, quantile, sequence_sums

SMALLEST_SCALE = 1e-6


@dataclass(frozen=True)
class StepWeights:
    """This rank's weights of one optimiser step, float64."""

    weight_N: Tensor
    share_N: Tensor
    """Weight over its per-sequence and global denominators."""
    units: Tensor
    """All ranks' weights, one per token or, under sequence agreement, per sequence; empty where agreement is off."""
    effective_sample_size: float
    """`(sum w)^2 / sum w^2 / count` of the units: 1 when all weights are equal."""
    scale: float
    """What disagreements are measured against; nan where there is no such number for the whole step."""


def disagreement(logprob_KN: Tensor, statistic: str) -> Tensor:
    """Population variance (divided by K, so 0 and not NaN for K = 1) or max - min over the K views; float64."""
    logprob_KN = logprob_KN.double()
    if statistic == "range":
        return logprob_KN.amax(0) - logprob_KN.amin(0)
    return (logprob_KN - logprob_KN.mean(0)).square().mean(0)


def token_weights(disagreement_N: Tensor, scale: float, agreement: TokenAgreement) -> Tensor:
    """`w = max(floor, 1 / (1 + gamma min(d / scale, cap)))`."""
    scaled_N = (disagreement_N / scale).clamp(max=agreement.cap)
    return (1.0 / (1.0 + agreement.gamma * scaled_N)).clamp(min=agreement.floor)


def sequence_weights(disagreement_S: Tensor, scale: float, agreement: SequenceAgreement) -> Tensor:
    """`w = exp(-gamma A / scale)`."""
    return torch.exp(-agreement.gamma * (disagreement_S / scale))


def equal_step_weights(share_N: Tensor) -> StepWeights:
    """No agreement: every token has its plain share of the mean."""
    return StepWeights(torch.ones_like(share_N), share_N, share_N[:0], 1.0, math.nan)


def token_step_weights(
    auxiliary_KN: Tensor,
    sequence_N: Tensor,
    count_S: Tensor,
    sequences: int,
    agreement: TokenAgreement,
    gather: Gather,
) -> StepWeights:
    """The weighted mean within each sequence, then the mean over all ranks' `sequences`."""
    disagreement_N = disagreement(auxiliary_KN, agreement.statistic)
    scale = disagreement_scale(gather(disagreement_N), agreement)
    weight_N = token_weights(disagreement_N, scale, agreement)
    total_S = sequence_sums(weight_N, sequence_N, len(count_S))
    share_N = weight_N / (total_S[sequence_N] * max(sequences, 1))
    units = gather(weight_N)
    return StepWeights(weight_N, share_N, units, effective_sample_size(units), scale)


def sequence_step_weights(
    auxiliary_KN: Tensor, sequence_N: Tensor, count_S: Tensor, agreement: SequenceAgreement, gather: Gather
) -> StepWeights:
    """The plain mean within each sequence, then the weighted mean over the global batch.

    Normalised relative to the global batch's smallest disagreement, so that weights which all underflow do not divide
    zero by zero.
    """
    sum_KS = torch.stack([sequence_sums(view_N, sequence_N, len(count_S)) for view_N in auxiliary_KN])
    disagreement_S = disagreement(sum_KS / count_S.clamp(min=1.0), agreement.statistic)
    gathered_S = gather(disagreement_S[count_S > 0])
    smallest = gathered_S.min() if gathered_S.numel() else 0.0
    fraction = agreement.scale_quantile
    scale = 1.0 if fraction is None else _quantile_scale(gathered_S, fraction)
    relative = sequence_weights(gathered_S - smallest, scale, agreement)
    share_S = sequence_weights(disagreement_S - smallest, scale, agreement) / (count_S * relative.sum())
    weight_S = sequence_weights(disagreement_S, scale, agreement)
    units = sequence_weights(gathered_S, scale, agreement)
    return StepWeights(weight_S[sequence_N], share_S[sequence_N], units, effective_sample_size(relative), scale)


def disagreement_scale(disagreement_N: Tensor, agreement: TokenAgreement) -> float:
    """What `disagreement_N` (all that are compared) is measured against: the absolute number or the quantile."""
    if agreement.scale is not None:
        return max(agreement.scale, SMALLEST_SCALE)
    return _quantile_scale(disagreement_N, agreement.scale_quantile)


def _quantile_scale(disagreements: Tensor, fraction: float) -> float:
    """At least 1e-6: views that all agree then have scaled disagreements of 0, not 0 / 0."""
    return max(quantile(disagreements, fraction), SMALLEST_SCALE) if disagreements.numel() else SMALLEST_SCALE


def effective_sample_size(weights: Tensor) -> float:
    """`(sum w)^2 / sum w^2 / count`; 1 for no weights."""
    return float(weights.sum().square() / weights.square().sum() / weights.numel()) if weights.numel() else 1.0

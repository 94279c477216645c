"""The reductions of the UniSD authors' released code (Ahren09/UniSD, commit beef9a0), to compare ours with.

Theirs reduces micro-batch by micro-batch: with rows b of a micro-batch, m the token mask and w the agreement weights,

    L_main = mean_b [sum_t m w D / max(1, sum_t m w)],   L_con, L_feat = mean_b [sum_t m r / max(1, sum_t m)],

and the mean of these over micro-batches. So what a token counts depends on who shares its micro-batch; rows without
tokens, or without a negative view, count in the mean over rows; and a weight that is one number per sequence cancels.
Here only the shares and weights are made; what they multiply, and how it is summed, is the same as in ours.
"""

import math

import torch
from torch import Tensor

from unisd_rl.config.objective import Agreement, SequenceAgreement, TokenAgreement
from unisd_rl.objective.agreement import (
    StepWeights,
    disagreement,
    disagreement_scale,
    effective_sample_size,
    sequence_weights,
    token_weights,
)
from unisd_rl.objective.reduction import Gather, TokenShares, sequence_sums

_SMALLEST_SEQUENCE_WEIGHT = 1e-6


def reference_shares(
    sequence_N: Tensor, batch_S: Tensor, count_S: Tensor, contrasted_S: Tensor, gather: Gather
) -> TokenShares:
    """A mean over tokens, over all rows of a micro-batch, and over the micro-batches of all ranks. A collective.

    `batch_S` is the micro-batch of each sequence: consecutive prompts of this rank. Theirs averages gradients over
    ranks and over a rank's micro-batches, of which all ranks have equally many.
    """
    rows_B = torch.bincount(batch_S).double()
    micro_batches = float(gather(rows_B.new_tensor([len(rows_B)])).sum())
    row_S = 1.0 / (rows_B[batch_S] * micro_batches)
    mean_N = row_S[sequence_N] / count_S[sequence_N]  # tokens exist, so their count is at least the clamp's 1
    return TokenShares(mean_N, mean_N * contrasted_S[sequence_N])


def reference_step_weights(
    auxiliary_KN: Tensor,
    sequence_N: Tensor,
    batch_S: Tensor,
    count_S: Tensor,
    mean_N: Tensor,
    agreement: Agreement,
    gather: Gather,
) -> StepWeights:
    """Agreement weights, normalised within each sequence; `mean_N` is the share without weights. A collective."""
    if isinstance(agreement, TokenAgreement):
        weight_N = _token_weights(auxiliary_KN, batch_S[sequence_N], agreement)
        units = gather(weight_N)
    else:
        assert isinstance(agreement, SequenceAgreement)
        sums_KS = torch.stack([sequence_sums(view_N, sequence_N, len(count_S)) for view_N in auxiliary_KN])
        disagreement_S = disagreement(sums_KS / count_S.clamp(min=1.0), agreement.statistic)
        weight_S = sequence_weights(disagreement_S, 1.0, agreement).clamp(min=_SMALLEST_SEQUENCE_WEIGHT)
        weight_N, units = weight_S[sequence_N], gather(weight_S[count_S > 0])
    total_S = sequence_sums(weight_N, sequence_N, len(count_S)).clamp(min=1.0)
    share_N = mean_N * count_S[sequence_N] * weight_N / total_S[sequence_N]
    return StepWeights(weight_N, share_N, units, effective_sample_size(units), math.nan)


def _token_weights(auxiliary_KN: Tensor, batch_N: Tensor, agreement: TokenAgreement) -> Tensor:
    """Each micro-batch by its own scale, the variance over views divided by K - 1."""
    disagreement_N = disagreement(auxiliary_KN, agreement.statistic)
    if agreement.statistic == "variance":
        disagreement_N = disagreement_N * (len(auxiliary_KN) / (len(auxiliary_KN) - 1))
    weight_N = torch.ones_like(disagreement_N)
    for batch in batch_N.unique().tolist():
        members_N = batch_N == batch
        scale = disagreement_scale(disagreement_N[members_N], agreement)
        weight_N[members_N] = token_weights(disagreement_N[members_N], scale, agreement)
    return weight_N

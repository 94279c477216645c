"""From numbers per token to one number per step: quantiles, per-sequence sums, global counts.

Everything here is detached and in float64, so that no result depends on the order in which ranks or micro-batches
contributed beyond what rounding to float32 afterwards hides.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unisd_rl.metrics import BatchCounts

Gather = Callable[[Tensor], Tensor]
"""Concatenates one-dimensional tensors of any lengths over all ranks; the identity on a single rank. A collective:
every rank calls it equally often, also ranks without tokens."""


@dataclass(frozen=True)
class TokenShares:
    """What each token counts in a mean over the step's sequences of the mean over a sequence's tokens; float64."""

    mean_N: Tensor
    """In the mean over all sequences."""
    contrasted_N: Tensor
    """In the mean for the contrastive term: 0 in sequences without a negative view."""


def step_counts(count_S: Tensor, contrasted_S: Tensor, gather: Gather) -> BatchCounts:
    """From this rank's tokens per sequence, and which sequences have tokens and a negative view. A collective."""
    local = torch.stack([count_S.sum(), (count_S > 0).double().sum(), contrasted_S.double().sum()])
    return BatchCounts(*map(int, global_sums(local, gather).tolist()))


def global_shares(sequence_N: Tensor, count_S: Tensor, contrasted_S: Tensor, counts: BatchCounts) -> TokenShares:
    """Ours: every sequence with tokens counts the same, on whichever rank and in whichever micro-batch it is."""
    within_N = 1.0 / count_S[sequence_N]
    contrasted_N = within_N * contrasted_S[sequence_N] / max(counts.contrasted_sequences, 1)
    return TokenShares(within_N / max(counts.sequences, 1), contrasted_N)


def quantile(values_N: Tensor, fraction: float) -> float:
    """The quantile by linear interpolation between order statistics; any length >= 1 (torch.quantile ends at 2^24)."""
    if not values_N.numel():
        raise ValueError("the quantile of no values is not defined")
    ordered_N = values_N.detach().double().sort().values
    position = fraction * (ordered_N.numel() - 1)
    below = math.floor(position)
    low, high = ordered_N[[below, math.ceil(position)]].tolist()
    return low + (position - below) * (high - low)


def sequence_sums(values_N: Tensor, sequence_N: Tensor, sequences: int) -> Tensor:
    """`sum_S` (float64): the sum over each sequence's tokens; `sequence_N` holds the index of a token's sequence."""
    sums_S = torch.zeros(sequences, dtype=torch.float64, device=values_N.device)
    return sums_S.index_add_(0, sequence_N, values_N.double())


def global_sums(local: Tensor, gather: Gather) -> Tensor:
    """The element-wise sum over ranks of a one-dimensional tensor of fixed length."""
    return gather(local).view(-1, local.numel()).sum(0)

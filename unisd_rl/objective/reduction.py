"""From numbers per token to one number per step: quantiles, per-sequence sums, global counts.

Everything here is detached and in float64, so that no result depends on the order in which ranks or micro-batches
contributed beyond what rounding to float32 afterwards hides.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Gather = Callable[[Tensor], Tensor]
"""Concatenates one-dimensional tensors of any lengths over all ranks; the identity on a single rank. A collective:
every rank calls it equally often, also ranks without tokens."""


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


def token_counts(sequence_N: Tensor, sequences: int) -> Tensor:
    """`count_S` (float64): tokens of each sequence; 0 for fully masked ones."""
    return torch.bincount(sequence_N, minlength=sequences).double()


def global_sums(local: Tensor, gather: Gather) -> Tensor:
    """The element-wise sum over ranks of a one-dimensional tensor of fixed length."""
    return gather(local).view(-1, local.numel()).sum(0)

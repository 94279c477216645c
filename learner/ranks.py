"""What the learner's ranks tell each other beside gradients: a few numbers a step. One rank needs none of it.

Everything here is a collective: all ranks call it equally often, also those without tokens.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def own() -> int:
    """This process's rank."""
    return dist.get_rank()


def gather(local: Tensor) -> Tensor:
    """One-dimensional tensors of any lengths and one dtype, concatenated in rank order; the same on every rank."""
    ranks = dist.get_world_size()
    if ranks == 1:
        return local
    lengths = [torch.zeros(1, dtype=torch.long, device=local.device) for _ in range(ranks)]
    dist.all_gather(lengths, torch.tensor([local.numel()], device=local.device))
    counts = [int(length) for length in lengths]
    padded = local.new_zeros(max(counts))
    padded[: local.numel()] = local
    parts = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def largest(values: list[float], device: torch.device) -> list[float]:
    """Element-wise maximum over ranks; -inf is 'none here'."""
    return _reduce(values, device, dist.ReduceOp.MAX)


def total(values: list[float], device: torch.device) -> list[float]:
    """Element-wise sum over ranks, in float64."""
    return _reduce(values, device, dist.ReduceOp.SUM)


def _reduce(values: list[float], device: torch.device, operation: dist.ReduceOp.RedOpType) -> list[float]:
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, op=operation)
    return tensor.tolist()

"""Where a parameter's numbers lie: whole on each rank (ZeRO 0-2), or one shard a rank (ZeRO-3).

DeepSpeed marks a sharded parameter with attributes of its own (`ds_tensor` is this rank's shard, flat and padded to
equal lengths, `ds_shape` the whole shape). This module is the only place that knows.

What the learner's ranks tell each other beside gradients: a few numbers a step. One rank needs none of it.

Everything here is a collective: all ranks call it equally often, also those without tokens.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_fp32_param, safe_get_local_fp32_param
from torch import Tensor, nn


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


_GATHERED_ELEMENTS = 1 << 26


def is_sharded(parameter: nn.Parameter) -> bool:
    """Whether ZeRO-3 owns this parameter."""
    return hasattr(parameter, "ds_tensor")


def local(parameter: nn.Parameter) -> Tensor:
    """The numbers of `parameter` that lie on this rank: its shard, or all of them. The storage itself, no copy."""
    return parameter.ds_tensor.data if is_sharded(parameter) else parameter.data


def local_master(parameter: nn.Parameter) -> Tensor:
    """The float32 master of `local(parameter)`; a collective for bfloat16 under ZeRO 1-2."""
    if local(parameter).dtype == torch.float32:
        return local(parameter)
    read = safe_get_local_fp32_param if is_sharded(parameter) else safe_get_full_fp32_param
    master = read(parameter)
    assert master is not None, "DeepSpeed keeps no float32 master of this parameter"
    return master


def assembled(part: Tensor, parameter: nn.Parameter) -> Tensor:
    """All ranks' `part`s of `parameter`, in its own shape; a collective where it is sharded."""
    if not is_sharded(parameter):
        return part
    return gather(part.flatten())[: parameter.ds_numel].view(parameter.ds_shape)


def part_of(whole: Tensor, parameter: nn.Parameter) -> Tensor:
    """This rank's part of a tensor in the parameter's own shape: the inverse of `assembled`."""
    if not is_sharded(parameter):
        return whole
    part = torch.zeros_like(parameter.ds_tensor, dtype=whole.dtype)
    start = dist.get_rank() * part.numel()
    found = whole.flatten()[start : start + part.numel()]
    part[: found.numel()] = found
    return part


def gathered(parameters: Iterable[Tensor]) -> AbstractContextManager[object]:
    """Within this context the parameters are whole, for reading (what is written is thrown away). A collective."""
    sharded = [tensor for tensor in parameters if isinstance(tensor, nn.Parameter) and is_sharded(tensor)]
    return deepspeed.zero.GatheredParameters(sharded, modifier_rank=None) if sharded else nullcontext()


NamedTensors = Iterable[tuple[str, Tensor]]


def named_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every weight under its name, a tied one once; under ZeRO-3 they are not whole."""
    seen = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


def whole(tensors: NamedTensors) -> Iterator[tuple[str, Tensor]]:
    """The same, whole and without gradient; each is valid until the next is asked for.

    A collective under ZeRO-3: all ranks iterate to the end. About 64 Mi elements are whole at one time.
    """
    for group in _groups(tensors):
        with gathered(tensor for _, tensor in group):
            for name, tensor in group:
                yield name, tensor.detach()


def _groups(tensors: NamedTensors) -> Iterator[list[tuple[str, Tensor]]]:
    """Consecutive tensors, in groups of at most so many elements or of one tensor."""
    group: list[tuple[str, Tensor]] = []
    elements = 0
    for name, tensor in tensors:
        if group and elements + _numel(tensor) > _GATHERED_ELEMENTS:
            yield group
            group, elements = [], 0
        group.append((name, tensor))
        elements += _numel(tensor)
    if group:
        yield group


def _numel(tensor: Tensor) -> int:
    return tensor.ds_numel if isinstance(tensor, nn.Parameter) and is_sharded(tensor) else tensor.numel()

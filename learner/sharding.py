"""How ranks meet; parameters full on each rank (ZeRO 0-2) or one shard a rank (ZeRO-3), and what ranks tell each other.

DeepSpeed marks a sharded parameter with attributes of its own (`ds_tensor` is this rank's shard, flat and padded to
equal lengths, `ds_shape` the full shape). This module is the only place that knows.

Everything here is a collective: all ranks call it equally often, also those without tokens.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from learner.deepspeed_import import deepspeed, safe_get_full_fp32_param, safe_get_local_fp32_param


def init_process_group(gpus: bool, threads: int, timeout_s: float) -> torch.device:
    """Meet the ranks named by MASTER_ADDR, MASTER_PORT, RANK, WORLD_SIZE and LOCAL_RANK; returns this rank's device.

    `threads` 0 leaves torch's own number. A collective that takes longer than `timeout_s` fails.
    """
    if threads:
        torch.set_num_threads(threads)
    # DeepSpeed would compile a shared-memory all-reduce here, for a minute and with a compiler that may not be there.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("nccl" if gpus else "gloo", timeout=timedelta(seconds=timeout_s), verbose=False)
    return torch.device("cuda", 0) if gpus else torch.device("cpu")


def all_gather_ragged(tensor: Tensor) -> Tensor:
    """One-dimensional tensors of any lengths and one dtype, concatenated in rank order; the same on every rank."""
    ranks = dist.get_world_size()
    if ranks == 1:
        return tensor
    lengths = [torch.zeros(1, dtype=torch.long, device=tensor.device) for _ in range(ranks)]
    dist.all_gather(lengths, torch.tensor([tensor.numel()], device=tensor.device))
    counts = [int(length) for length in lengths]
    padded = tensor.new_zeros(max(counts))
    padded[: tensor.numel()] = tensor
    parts = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def all_reduce_max(values: list[float], device: torch.device) -> list[float]:
    """Element-wise maximum over ranks; -inf is 'none here'."""
    return _reduce(values, device, dist.ReduceOp.MAX)


def all_reduce_sum(values: list[float], device: torch.device) -> list[float]:
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


def full_shape(tensor: Tensor) -> torch.Size:
    """The shape of a weight, as it is when it is gathered."""
    return torch.Size(tensor.ds_shape) if isinstance(tensor, nn.Parameter) and is_sharded(tensor) else tensor.shape


def local_shard(parameter: nn.Parameter) -> Tensor:
    """The numbers of `parameter` that lie on this rank: its shard, or all of them. The storage itself, no copy."""
    return parameter.ds_tensor.data if is_sharded(parameter) else parameter.data


def local_fp32_master(parameter: nn.Parameter) -> Tensor:
    """The float32 master of `local_shard(parameter)`, on its device; a collective for bfloat16 under ZeRO 1-2."""
    if local_shard(parameter).dtype == torch.float32:
        return local_shard(parameter)
    master = (safe_get_local_fp32_param if is_sharded(parameter) else safe_get_full_fp32_param)(parameter)
    assert master is not None, "DeepSpeed keeps no float32 master of this parameter"
    return master.to(local_shard(parameter).device)  # it may be offloaded


def all_gather_parameter(shard: Tensor, parameter: nn.Parameter) -> Tensor:
    """All ranks' shards of `parameter`, or of a tensor that is cut like it, put together in the parameter's own shape.

    A collective where it is sharded.
    """
    if not is_sharded(parameter):
        return shard
    return all_gather_ragged(shard.flatten())[: parameter.ds_numel].view(parameter.ds_shape)


def shard_of(full: Tensor, parameter: nn.Parameter) -> Tensor:
    """This rank's shard of a tensor in the parameter's own shape: the inverse of `all_gather_parameter`."""
    if not is_sharded(parameter):
        return full
    shard = torch.zeros_like(parameter.ds_tensor, dtype=full.dtype)
    start = dist.get_rank() * shard.numel()
    values = full.flatten()[start : start + shard.numel()]
    shard[: values.numel()] = values  # the last shard is padded
    return shard


def gathered_parameters(parameters: Iterable[Tensor]) -> AbstractContextManager[object]:
    """Within this context the parameters are full, for reading: what is written is thrown away. A collective."""
    sharded = [tensor for tensor in parameters if isinstance(tensor, nn.Parameter) and is_sharded(tensor)]
    return deepspeed.zero.GatheredParameters(sharded, modifier_rank=None) if sharded else nullcontext()


NamedTensors = Iterable[tuple[str, Tensor]]


def named_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every weight under its name, a tied one once; under ZeRO-3 they are not gathered."""
    seen = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


def iter_full_tensors(tensors: NamedTensors) -> Iterator[tuple[str, Tensor]]:
    """The same, full and without gradient; each is valid until the next is asked for.

    A collective under ZeRO-3: all ranks iterate to the end. About 64 Mi elements are gathered at one time.
    """
    for group in groups_up_to(_GATHERED_ELEMENTS, tensors, _numel):
        with gathered_parameters(tensor for _, tensor in group):
            for name, tensor in group:
                yield name, tensor.detach()


def groups_up_to(
    limit: int, tensors: NamedTensors, size: Callable[[Tensor], int]
) -> Iterator[list[tuple[str, Tensor]]]:
    """Consecutive tensors in groups whose sizes sum up to at most `limit`; a larger tensor stands alone."""
    group: list[tuple[str, Tensor]] = []
    total = 0
    for name, tensor in tensors:
        if group and total + size(tensor) > limit:
            yield group
            group, total = [], 0
        group.append((name, tensor))
        total += size(tensor)
    if group:
        yield group


def _numel(tensor: Tensor) -> int:
    return full_shape(tensor).numel()

"""Tensors to buckets of bytes and back, exactly, for any dtype and shape.

The learner packs (`take_snapshot`), Ray carries uint8 arrays (numpy travels without pickling its
data, bfloat16 tensors do not), and whoever holds a model unpacks views into the same memory.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from unisd_rl.transport.weights.manifest import BucketManifest, Bytes, SnapshotManifest, TensorSpec, checksum
from unisd_rl.types import PolicyVersion

ALIGNMENT = 64  # bytes: every dtype may be viewed in place, and vector loads stay on one cache line


def take_snapshot(
    version: PolicyVersion, tensors: Iterable[tuple[str, torch.Tensor]], bucket_bytes: int
) -> tuple[SnapshotManifest, list[Bytes]]:
    """Copy named tensors into buckets and describe them. Consumes the iterable once, in order."""
    buckets, arrays = pack(tensors, bucket_bytes)
    return SnapshotManifest(version, buckets, tuple(map(checksum, arrays))), arrays


def pack(
    tensors: Iterable[tuple[str, torch.Tensor]], bucket_bytes: int
) -> tuple[tuple[BucketManifest, ...], list[Bytes]]:
    """Copy named tensors into uint8 arrays of at most `bucket_bytes`, larger tensors alone in one of their size."""
    open_bucket = _Bucket(bucket_bytes)
    closed: list[_Bucket] = []
    for name, tensor in tensors:
        if not open_bucket.fits(tensor.nbytes):
            closed.append(open_bucket)
            open_bucket = _Bucket(max(bucket_bytes, tensor.nbytes))
        open_bucket.add(name, tensor)
    closed.append(open_bucket)
    filled = [bucket for bucket in closed if bucket.specs]
    return tuple(tuple(bucket.specs) for bucket in filled), [bucket.array[: bucket.used] for bucket in filled]


def unpack(buckets: Sequence[BucketManifest], arrays: Sequence[Bytes]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, tensor) in the order they were packed. Tensors are views: read them, do not write."""
    for specs, array in zip(buckets, arrays, strict=True):
        data = _as_tensor(array)
        for spec in specs:
            flat = data[spec.offset : spec.offset + spec.nbytes]
            yield spec.name, flat.view(_dtype(spec.dtype)).view(spec.shape)


class _Bucket:
    """An array that fills up. Its pages cost nothing until they are written."""

    def __init__(self, nbytes: int) -> None:
        self.array: Bytes = np.zeros(nbytes, np.uint8)  # the gaps between tensors count in the checksum
        self.specs: list[TensorSpec] = []
        self.used = 0

    def fits(self, nbytes: int) -> bool:
        return self._next_offset() + nbytes <= len(self.array)

    def add(self, name: str, tensor: torch.Tensor) -> None:
        flat = tensor.detach().contiguous().reshape(-1)
        offset = self._next_offset()
        spec = TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), offset, tensor.nbytes)
        self.array[offset : offset + spec.nbytes] = flat.view(torch.uint8).cpu().numpy()
        self.specs.append(spec)
        self.used = offset + spec.nbytes

    def _next_offset(self) -> int:
        return -(-self.used // ALIGNMENT) * ALIGNMENT


def _as_tensor(array: Bytes) -> torch.Tensor:
    with warnings.catch_warnings():
        # Arrays out of Ray's object store are read-only, and nobody writes to these views.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _dtype(name: str) -> torch.dtype:
    dtype = vars(torch)[name]
    assert isinstance(dtype, torch.dtype), f"{name} is not a dtype of torch"
    return dtype

"""Tensors to buckets of bytes and back, exactly, for any dtype and shape.

The learner packs, Ray carries uint8 arrays (numpy travels without pickling its data, bfloat16 tensors do not), and
whoever holds a model unpacks views into the same memory.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xxhash

from unisd_rl.transport.weights.manifest import BucketManifest, Bytes, SnapshotManifest, TensorSpec, copy_hashed
from unisd_rl.types import PolicyVersion

ALIGNMENT = 64  # bytes: every dtype may be viewed in place, and vector loads stay on one cache line


class BucketMemory:
    """Memory for one bucket after the other: its pages are there after the first, which is half the cost of a copy."""

    def __init__(self) -> None:
        self._array: Bytes = np.empty(0, np.uint8)

    def __call__(self, nbytes: int) -> Bytes:
        """At least so many bytes, of any content; what was given before is given again."""
        if len(self._array) < nbytes:
            self._array = np.empty(nbytes, np.uint8)
        return self._array


def manifest_of(version: PolicyVersion, packed: Sequence["Packed"]) -> SnapshotManifest:
    """The manifest of these buckets."""
    return SnapshotManifest(
        version, tuple(bucket.specs for bucket in packed), tuple(bucket.checksum for bucket in packed)
    )


@dataclass(frozen=True, slots=True)
class Packed:
    """A full bucket: what lies where, its bytes, and their xxh3 checksum."""

    specs: BucketManifest
    array: Bytes
    checksum: str


def pack(
    tensors: Iterable[tuple[str, torch.Tensor]], bucket_bytes: int, memory: Callable[[int], Bytes]
) -> Iterator[Packed]:
    """Copy named tensors into uint8 arrays of at most `bucket_bytes`, larger tensors alone in one of their size.

    Each bucket is yielded when it is full, and valid as long as `memory` does not give its bytes away again.
    """
    bucket = _Bucket(memory(bucket_bytes), bucket_bytes)
    for name, tensor in tensors:
        if not bucket.fits(tensor.nbytes):
            if bucket.specs:
                yield bucket.packed()
            nbytes = max(bucket_bytes, tensor.nbytes)
            bucket = _Bucket(memory(nbytes), nbytes)
        bucket.add(name, tensor)
    if bucket.specs:
        yield bucket.packed()


def unpack(buckets: Sequence[BucketManifest], arrays: Sequence[Bytes]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, tensor) in the order they were packed. Tensors are views: read them, do not write."""
    for specs, array in zip(buckets, arrays, strict=True):
        with warnings.catch_warnings():
            # Arrays out of Ray's object store are read-only, and nobody writes to these views.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            data = torch.from_numpy(array)
        for spec in specs:
            flat = data[spec.offset : spec.offset + spec.nbytes]
            yield spec.name, flat.view(getattr(torch, spec.dtype)).view(spec.shape)


class _Bucket:
    """The first `nbytes` of an array, which fill up. Its pages cost nothing until they are written."""

    def __init__(self, array: Bytes, nbytes: int) -> None:
        self._array, self._nbytes = array, nbytes
        self.specs: list[TensorSpec] = []
        self._used, self._checksum = 0, xxhash.xxh3_64()

    def packed(self) -> Packed:
        return Packed(tuple(self.specs), self._array[: self._used], self._checksum.hexdigest())

    def fits(self, nbytes: int) -> bool:
        return self._next_offset() + nbytes <= self._nbytes

    def add(self, name: str, tensor: torch.Tensor) -> None:
        flat = tensor.detach().contiguous().reshape(-1)
        offset = self._next_offset()
        spec = TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), offset, tensor.nbytes)
        gap, target = self._array[self._used : offset], self._array[offset : offset + spec.nbytes]
        gap[:] = 0
        self._checksum.update(gap.data)
        copy_hashed(target, flat.view(torch.uint8).cpu().numpy(), self._checksum)
        self.specs.append(spec)
        self._used = offset + spec.nbytes

    def _next_offset(self) -> int:
        return -(-self._used // ALIGNMENT) * ALIGNMENT

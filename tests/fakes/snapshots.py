"""Snapshots as a learner packs them."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager

import numpy as np
import torch

from unisd_rl.transport.weights.manifest import Bytes, SnapshotManifest
from unisd_rl.transport.weights.shared_memory import SharedMemory
from unisd_rl.transport.weights.snapshot import manifest_of, pack
from unisd_rl.types import PolicyVersion


def take_snapshot(
    version: PolicyVersion, tensors: Iterable[tuple[str, torch.Tensor]], bucket_bytes: int
) -> tuple[SnapshotManifest, list[Bytes]]:
    """Copy named tensors into buckets and describe them. Consumes the iterable once, in order."""
    packed = list(pack(tensors, bucket_bytes, lambda nbytes: np.empty(nbytes, np.uint8)))
    return manifest_of(version, packed), [bucket.array for bucket in packed]


@contextmanager
def shared(buckets: Sequence[Bytes]) -> Iterator[list[str]]:
    """Copy buckets into shared memory; yields one path each, valid in this block, for `map_shared`."""
    with closing(SharedMemory()) as memory:
        yield memory.write(buckets).paths

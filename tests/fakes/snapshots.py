"""Snapshots as a learner packs them."""

from collections.abc import Iterable

import numpy as np
import torch

from unisd_rl.transport.weights.manifest import Bytes, SnapshotManifest
from unisd_rl.transport.weights.snapshot import manifest_of, pack
from unisd_rl.types import PolicyVersion


def take_snapshot(
    version: PolicyVersion, tensors: Iterable[tuple[str, torch.Tensor]], bucket_bytes: int
) -> tuple[SnapshotManifest, list[Bytes]]:
    """Copy named tensors into buckets and describe them. Consumes the iterable once, in order."""
    packed = list(pack(tensors, bucket_bytes, lambda nbytes: np.empty(nbytes, np.uint8)))
    return manifest_of(version, packed), [bucket.array for bucket in packed]

"""Shared memory for buckets of weights: a child process can map it, and no crash leaves it behind.

The engine's own process is a child of the rollout actor and not a Ray process, so it cannot read
Ray's object store. It maps anonymous memory files of the actor instead: they have no name in any
folder, do not count against a container's small /dev/shm, and vanish with their last user.
"""

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from unisd_rl.transport.weights.manifest import Bytes, copy_hashed


@dataclass(frozen=True, slots=True)
class SharedBuckets:
    """One path a bucket for `map_shared`, and the xxh3 checksum of what lies there."""

    paths: list[str]
    checksums: list[str]


class SharedMemory:
    """Files in memory, one a bucket, that are written anew for every snapshot.

    They are kept between snapshots, as large as one of them: their pages, and those of whoever has them mapped, cost
    more to make than the bytes cost to copy.
    """

    def __init__(self) -> None:
        self._files: list[_File] = []

    def write(self, buckets: Sequence[Bytes]) -> SharedBuckets:
        """Copy the buckets here. What was written before is gone."""
        sizes = [len(bucket) for bucket in buckets]
        if sizes != [len(file.mapped) for file in self._files]:
            self.close()
            self._files = [_File(size) for size in sizes]
        checksums = []
        for file, bucket in zip(self._files, buckets, strict=True):
            state = xxhash.xxh3_64()
            copy_hashed(file.mapped, bucket, state)
            checksums.append(state.hexdigest())
        return SharedBuckets([file.path for file in self._files], checksums)

    def close(self) -> None:
        """Let go of the memory; who has it mapped keeps it. May be called twice."""
        for file in self._files:
            os.close(file.descriptor)
        self._files = []


def map_shared(path: str) -> Bytes:
    """Map one bucket. Pages are shared with the writer; what is written here stays private."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:  # an empty file cannot be mapped
            return np.empty(0, np.uint8)
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8)


class Mappings:
    """`map_shared` that maps a file once: pages of a mapping that was read before are there."""

    def __init__(self) -> None:
        self._mapped: dict[tuple[str, int], Bytes] = {}

    def map(self, paths: Sequence[str]) -> list[Bytes]:
        """The buckets; mappings of other paths are let go of."""
        keys = [(path, os.stat(path).st_ino) for path in paths]  # a path may have become another file's
        self._mapped = {key: self._mapped[key] if key in self._mapped else map_shared(key[0]) for key in keys}
        return [self._mapped[key] for key in keys]


class _File:
    """Anonymous memory of `size` bytes, mapped here for writing."""

    def __init__(self, size: int) -> None:
        self.descriptor = os.memfd_create("unisd-rl-weights")
        os.ftruncate(self.descriptor, size)
        self.mapped: Bytes = (
            np.frombuffer(mmap.mmap(self.descriptor, size), np.uint8) if size else np.empty(0, np.uint8)
        )
        self.path = f"/proc/{os.getpid()}/fd/{self.descriptor}"

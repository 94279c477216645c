"""Bytes that a child process on the same machine can map, and that no crash leaves behind.

The engine's own process is a child of the rollout actor and not a Ray process, so it cannot read
Ray's object store. It maps anonymous memory files of the actor instead: they have no name in any
folder, do not count against a container's small /dev/shm, and vanish with their last user.
"""

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from unisd_rl.transport.weights.manifest import Bytes


@contextmanager
def shared(buckets: Sequence[Bytes]) -> Iterator[list[str]]:
    """Copy buckets into shared memory; yields one path each, valid in this block, for `map_shared`."""
    with ExitStack() as files:
        yield [_write(bucket, files) for bucket in buckets]


def map_shared(path: str) -> Bytes:
    """Map one bucket. Pages are shared with the writer; what is written here stays private."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:  # an empty file cannot be mapped
            return np.empty(0, np.uint8)
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8)


def _write(bucket: Bytes, files: ExitStack) -> str:
    descriptor = os.memfd_create("unisd-rl-weights")
    files.callback(os.close, descriptor)
    with os.fdopen(os.dup(descriptor), "wb", buffering=0) as file:
        remaining = bucket.data
        while remaining:  # one write takes at most 2 GiB
            remaining = remaining[file.write(remaining) :]
    return f"/proc/{os.getpid()}/fd/{descriptor}"

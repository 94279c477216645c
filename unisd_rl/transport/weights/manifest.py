"""The manifest of a weight snapshot: which tensor lies where, and the checksums by which it is known to be complete.

A snapshot travels as a few buckets of bytes and one `SnapshotManifest` that says which tensor lies
where. No torch here: the process that only holds snapshots need not import it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from unisd_rl.types import PolicyVersion

Bytes = NDArray[np.uint8]
_PIECE = 1 << 19  # bytes; below a core's second cache


class UpdateRefused(Exception):
    """A snapshot was turned away before anything was touched: the engine goes on with its old weights."""


class CorruptSnapshotError(UpdateRefused):
    """The bytes that arrived are not the bytes that were sent."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor inside a bucket: torch's name of its dtype, its shape, and its bytes' place."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


BucketManifest = tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class SnapshotManifest:
    """All tensors of one policy version, bucket by bucket, and each bucket's xxh3 checksum."""

    version: PolicyVersion
    buckets: tuple[BucketManifest, ...]
    checksums: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, padding between them left out."""
        return sum(spec.nbytes for bucket in self.buckets for spec in bucket)

    def verify(self, buckets: Sequence[Bytes]) -> None:
        """Raise `CorruptSnapshotError`, naming the bucket, unless every checksum is right."""
        self.compare([checksum(bucket) for bucket in buckets])

    def compare(self, checksums: Sequence[str]) -> None:
        """As `verify`, of buckets that have these checksums."""
        if len(checksums) != len(self.checksums):
            raise CorruptSnapshotError(f"{len(self.checksums)} buckets were sent and {len(checksums)} arrived")
        pairs = zip(checksums, self.checksums, strict=True)
        if wrong := [index for index, (arrived, sent) in enumerate(pairs) if arrived != sent]:
            raise CorruptSnapshotError(
                f"checksum of bucket {wrong[0]} of {label(self.version)} is wrong: weights refused"
            )

    def to_json(self) -> str:
        """For a process boundary that carries only plain values."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str) -> "SnapshotManifest":
        """Inverse of `to_json`."""
        return msgspec.json.decode(text, type=cls)

    def __reduce__(self) -> "tuple[Callable[[str], SnapshotManifest], tuple[str]]":
        """As text: a model has thousands of tensors, and pickle looks at each of their fields."""
        return SnapshotManifest.from_json, (self.to_json(),)


def checksum(bucket: Bytes) -> str:
    """xxh3 (64 bits, hexadecimal) of a contiguous array of bytes."""
    return xxhash.xxh3_64_hexdigest(bucket.data)


def copy_hashed(target: Bytes, source: Bytes, state: "xxhash.xxh3_64") -> None:
    """Copy bytes and add what was written to a checksum, piece by piece: each is hashed while it is in the cache."""
    for start in range(0, len(source), _PIECE):
        piece = target[start : start + _PIECE]
        np.copyto(piece, source[start : start + _PIECE])
        state.update(piece.data)


def label(version: PolicyVersion) -> str:
    """`lineage:number`, the form in which vLLM carries a version with every token."""
    return f"{version.lineage}:{version.number}"


def parse_label(text: str) -> PolicyVersion:
    """Inverse of `label`.

    Raises:
        ValueError: if `text` is not of that form.
    """
    lineage, _, number = text.partition(":")
    return PolicyVersion(int(lineage), int(number))

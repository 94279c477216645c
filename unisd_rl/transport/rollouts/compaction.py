"""Compaction of a ledger: the rows of closed segments become one Parquet file, in prompt order.

    segments --> Parquet file --> read back and compared --> its index --> segments removed

Cut short at any moment it loses nothing: until its index is written the Parquet file does not count, and from then on
the segments do not (`segments.py`). Parquet files of earlier compactions stay as they are.
"""

import io
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from typing_extensions import override

from unisd_rl.storage.stores import FileStore
from unisd_rl.transport.rollouts.number_set import NumberSet
from unisd_rl.transport.rollouts.schema import SCHEMA
from unisd_rl.transport.rollouts.segments import (
    CompactedFile,
    Discarded,
    IndexEntry,
    Segment,
    gather,
    load,
    remove,
    write_compacted,
    write_discarded,
)

_LOG = logging.getLogger(__name__)
_COMPACTED_BYTES = 64 << 20
_ROW_GROUP_BYTES = 8 << 20  # uncompressed: what reading one row costs at most, and the memory that compacting takes
_CHUNK_BYTES = 1 << 20
_MOST_SEGMENTS = 1000  # of a store whose segments are one commit each

Row: TypeAlias = tuple[int, IndexEntry, int]
"""A prompt number, the commit that its rollout came with, and which row of it."""
RowsOf: TypeAlias = Callable[[Sequence[Segment]], Sequence[Row]]
"""The rows of segments that count, in prompt order."""


@dataclass(frozen=True, slots=True)
class Compaction:
    """What was done: `segments` gave way to `file`, which is None if all their rows are stored elsewhere too."""

    segments: Sequence[Segment]
    file: CompactedFile | None


def due_segments(closed: Sequence[Segment], all_of_them: bool = False) -> Sequence[Segment]:
    """The oldest segments, as many as fit in one compacted file; none if it would not be full."""
    taken = nbytes = 0
    for segment in closed[:_MOST_SEGMENTS]:
        if taken and nbytes + segment.nbytes > _COMPACTED_BYTES:
            break
        taken, nbytes = taken + 1, nbytes + segment.nbytes
    full = taken < len(closed) or taken == _MOST_SEGMENTS or nbytes >= _COMPACTED_BYTES
    return closed[:taken] if full or all_of_them else ()


def compact_segments(files: FileStore, number: int, segments: Sequence[Segment], rows_of: RowsOf) -> Compaction:
    """Write the compacted file of this `number`; these segments may be removed then.

    Raises:
        OSError: the storage failed, or what was written does not read back the same. All rows are still there.
    """
    if not (rows := rows_of(segments)):
        return Compaction(segments, None)
    row_bytes = max(1, sum(segment.nbytes for segment in segments) // len(rows))
    size = max(1, _ROW_GROUP_BYTES // row_bytes)
    blocks = [rows[start : start + size] for start in range(0, len(rows), size)]
    replaces = NumberSet(segment.number for segment in segments)
    ranges = np.array(NumberSet(number for number, *_ in rows).ranges, np.int64)
    file = CompactedFile(number, ranges, tokens=0, nbytes=0, checksum="", replaces=replaces)
    try:
        file, digests = _write(files, file, blocks)
        _verify(files, file, blocks, digests)
        write_compacted(files, file)
    except BaseException:
        with suppress(OSError):  # storage that failed may refuse this too: its next owner removes it
            remove(files, [file])
        raise
    return Compaction(segments, file)


def _write(files: FileStore, file: CompactedFile, blocks: Sequence[Sequence[Row]]) -> tuple[CompactedFile, list[bytes]]:
    """The Parquet file, a row group a block; what is known of it now, and a digest of each block."""
    tokens, digests = 0, []
    with files.create(file.file) as sink, pq.ParquetWriter(
        checked := _ChecksumWriter(sink), SCHEMA, compression="zstd", write_page_checksum=True,
        use_dictionary=False, write_statistics=False,  # of tokens: half the time, and a sixth fewer bytes
    ) as writer:  # fmt: skip
        for block in blocks:
            table = gather([(entry, row) for _, entry, row in block], partial(load, files))
            writer.write_table(table, row_group_size=table.num_rows)
            tokens += pc.sum(pc.list_value_length(table["completion_tokens"])).as_py()
            digests.append(_digest(table))
    checksum = checked.checksum.hexdigest()
    return replace(file, tokens=tokens, nbytes=checked.nbytes, checksum=checksum), digests


def _verify(files: FileStore, file: CompactedFile, blocks: Sequence[Sequence[Row]], digests: Sequence[bytes]) -> None:
    checksum = xxhash.xxh3_64()
    with files.open(file.file) as source:
        while chunk := source.read(_CHUNK_BYTES):
            checksum.update(chunk)
    same, start = checksum.hexdigest() == file.checksum, 0
    for block, digest in zip(blocks, digests, strict=True):
        rows = file.rows_of([number for number, *_ in block])
        table, rows_in_table = load(files, file, list(rows.values()))
        same = same and list(rows.values()) == list(range(start, start + len(block)))
        same = same and list(rows_in_table) == list(range(len(block))) and _digest(table) == digest
        start += len(block)
    if not same:
        raise OSError(f"{files}/{file.file} does not read back as it was written: nothing was removed")


def _digest(table: pa.Table) -> bytes:
    """A hash of every bit of these rows (a nan's too), and of nothing that depends on how they lie in memory."""
    checksum = xxhash.xxh3_128()
    for column in table.columns:
        _hash_array(checksum, column.combine_chunks())
    return checksum.digest()


def _hash_array(checksum: xxhash.xxh3_128, array: pa.Array) -> None:
    if pa.types.is_list(array.type):
        checksum.update(pc.fill_null(pc.list_value_length(array), -1).to_numpy())
        _hash_array(checksum, pc.list_flatten(array))
    elif pa.types.is_struct(array.type):
        for inner in array.flatten():
            _hash_array(checksum, inner)
    elif pa.types.is_string(array.type):
        checksum.update(pc.binary_length(array).to_numpy())
        checksum.update("".join(array.to_pylist()).encode())
    else:
        checksum.update(array.to_numpy())


class BackgroundCompaction:
    """Compactions of a ledger that is appended to, one at a time, in a thread of their own.

    `files` must be synced: what survives a power loss gives way to nothing that does not. `leftovers` are names of
    files that do not count, to be removed. A compaction that fails is tried again when there is more to compact.
    """

    def __init__(self, files: FileStore, leftovers: Sequence[str]) -> None:
        self._files, self._leftovers = files, leftovers
        self._thread = ThreadPoolExecutor(1, "compaction")
        self._running: Future[Compaction] | None = None
        self._failed_at = 0

    def start_if_due(self, number: int, closed: Sequence[Segment], rows_of: RowsOf) -> None:
        """Compact the oldest of these segments into the file of this number, if they fill one and nothing is running.

        `rows_of` is called in the thread.
        """
        if self._running is None and len(closed) > self._failed_at and (segments := due_segments(closed)):
            self._failed_at = len(closed)
            self._thread.submit(self._remove_leftovers)
            self._running = self._thread.submit(compact_segments, self._files, number, segments, rows_of)

    def finished(self) -> Compaction | None:
        """What was done since this was asked last; `remove` it when its segments are not read any more."""
        if self._running is None or not self._running.done():
            return None
        running, self._running = self._running, None
        try:
            done = running.result()
        except Exception as error:  # all rows are where they were; whoever commits meanwhile must not fail for it
            _LOG.warning("rollouts were not compacted, which is tried again later: %s", error)
            return None
        self._failed_at = 0
        return done

    def remove(self, segments: Sequence[Segment]) -> None:
        """Remove them, in the thread; what it could not remove is left to the ledger's next owner."""
        self._thread.submit(remove, self._files, segments)

    def discard(self, before: Discarded, now: Discarded, gone: Sequence[CompactedFile]) -> None:
        """Throw these files away, in the thread. What it could not remove is left to the ledger's next owner."""
        self._thread.submit(self._discard, before, now, gone)

    def _discard(self, before: Discarded, now: Discarded, gone: Sequence[CompactedFile]) -> None:
        write_discarded(self._files, now)
        self._files.remove([before.index_file])
        remove(self._files, gone)

    def _remove_leftovers(self) -> None:
        names, self._leftovers = self._leftovers, ()
        self._files.remove(names)


class _ChecksumWriter(io.RawIOBase):
    """Passes on what is written, and computes its checksum. Closing it leaves the file below open."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.checksum, self.nbytes = file, xxhash.xxh3_64(), 0

    @override
    def writable(self) -> bool:
        return True

    @override
    def tell(self) -> int:
        return self.nbytes

    @override
    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.checksum.update(data)
        self.nbytes += len(data)
        return self._file.write(data)

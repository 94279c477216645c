"""Compaction of a ledger: one Parquet file, rows in prompt order, of everything it holds in small segments.

    segments --> Parquet file --> read back and compared --> index entry --> segments removed

Cut short at any moment it loses nothing: until its entry is written the Parquet file does not count, and from then on
the segments are doubles, which the next compaction removes. Parquet files of earlier compactions stay as they are.
"""

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from typing_extensions import override

from unisd_rl.storage.stores import FileStore, open_store
from unisd_rl.transport.rollouts.ledger import Ledger
from unisd_rl.transport.rollouts.schema import SCHEMA
from unisd_rl.transport.rollouts.segments import (
    INDEX,
    SEGMENTS,
    IndexEntry,
    last_segment,
    load,
    read_entries,
    remove,
    write_entry,
)

_ROW_GROUP_BYTES = 16 << 20  # uncompressed: what reading one row costs at most
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction did: rows moved, segments removed, their bytes and those of the Parquet file."""

    rows: int
    segments: int
    bytes_before: int
    bytes_after: int


def compact(location: str | Path) -> Compacted:
    """Compact the ledger at `location`, to which nothing may be appended meanwhile. Everything is synced to the disk.

    Raises:
        OSError: the storage failed, or what was written does not read back the same. All rows are still there.
    """
    files, ledger = open_store(location, fsync=True), Ledger(location, fsync=True)
    loose = [entry for entry in ledger.entries if not entry.compacted]
    done = {number for entry in ledger.entries if entry.compacted for number in entry.numbers}
    numbers = sorted({number for entry in loose for number in entry.numbers} - done)
    before, after = sum(entry.nbytes for entry in loose), 0
    if numbers:
        row_bytes = max(1, before // sum(len(entry.numbers) for entry in loose))
        size = max(1, _ROW_GROUP_BYTES // row_bytes)
        blocks = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        after = _replace(files, ledger, blocks)
    remove(files, loose)
    _remove_leftovers(files)
    return Compacted(len(numbers), len(loose), before, after)


def _replace(files: FileStore, ledger: Ledger, blocks: Sequence[Sequence[int]]) -> int:
    """Write, verify and enter the Parquet file; its bytes."""
    entry = _write(files, ledger, blocks)
    try:
        _verify(files, ledger, blocks, entry)
        write_entry(files, entry)
    except BaseException:
        with suppress(OSError):  # storage that failed may refuse this too; the next compaction removes it
            remove(files, [entry])
        raise
    return entry.nbytes


def _write(files: FileStore, ledger: Ledger, blocks: Sequence[Sequence[int]]) -> IndexEntry:
    """The Parquet file, a row group a block, and its entry, which is not written yet."""
    segment = 1 + last_segment(files, compacted=True)
    entry = IndexEntry(segment, tuple(number for block in blocks for number in block), (), 0, "", compacted=True)
    lengths: list[int] = []
    with files.create(entry.file) as file:
        sink = _ChecksumWriter(file)
        with pq.ParquetWriter(sink, SCHEMA, compression="zstd", write_page_checksum=True) as writer:
            for rows in map(ledger.read, blocks):
                writer.write_table(rows, row_group_size=rows.num_rows)
                lengths += pc.list_value_length(rows["completion_tokens"]).to_pylist()
    return IndexEntry(segment, entry.numbers, tuple(lengths), sink.nbytes, sink.checksum.hexdigest(), compacted=True)


def _verify(files: FileStore, ledger: Ledger, blocks: Sequence[Sequence[int]], entry: IndexEntry) -> None:
    checksum = xxhash.xxh3_64()
    with files.open(entry.file) as file:
        while chunk := file.read(_CHUNK_BYTES):
            checksum.update(chunk)
    start, same = 0, checksum.hexdigest() == entry.checksum
    for rows in map(ledger.read, blocks):
        written, rows_in_table = load(files, entry, range(start, start + rows.num_rows))
        same = same and rows_in_table == list(range(rows.num_rows)) and _same(written, rows)
        start += rows.num_rows
    if not same:
        raise OSError(f"{files}/{entry.file} does not read back as it was written: nothing was removed")


def _same(left: pa.Table, right: pa.Table) -> bool:
    (left, left_bits), (right, right_bits) = _bits(left), _bits(right)
    return left.equals(right, check_metadata=True) and left_bits.equals(right_bits)


def _bits(rows: pa.Table) -> tuple[pa.Table, pa.Array]:
    """Log-probs apart, as integers: a nan is to be equal to itself."""
    logprobs = rows["logprobs"].combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(logprobs), -1)
    return rows.drop_columns("logprobs").append_column("lengths", lengths), logprobs.flatten().view(pa.int32())


def _remove_leftovers(files: FileStore) -> None:
    """What crashes left: files that no entry names, and entries that were cut short."""
    counting = {name for entry in read_entries(files) for name in (entry.file, entry.index_file)}
    for folder in (INDEX, SEGMENTS):
        names = [f"{folder}/{name}" for name in files.names(folder)]
        files.remove([name for name in names if name not in counting])


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

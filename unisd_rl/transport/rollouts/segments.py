"""The files of a ledger: numbered, immutable, each with an index entry that is written last and makes it count.

    segments/00000007.arrows                 rows as they were committed, an Arrow IPC stream
    segments/compacted-00000001.parquet      rows of many such files, in prompt order
    index/00000007.json                      which rows the file holds, its size and its xxh3 checksum

A file without an entry, and an entry without its last newline, were cut short by a crash and are ignored.
"""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import accumulate

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from unisd_rl.storage.stores import FileStore
from unisd_rl.transport.rollouts.schema import SCHEMA, Stream, read_ipc

SEGMENTS, INDEX = "segments", "index"


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """What a file holds: prompt numbers and completion tokens of each row, bytes, xxh3-64 checksum (hex).

    `segment` counts committed and compacted files apart.
    """

    segment: int
    numbers: tuple[int, ...]
    lengths: tuple[int, ...]
    nbytes: int
    checksum: str
    compacted: bool = False

    @property
    def file(self) -> str:
        """The name of the file with the rows."""
        return f"{SEGMENTS}/{self._stem}.{'parquet' if self.compacted else 'arrows'}"

    @property
    def index_file(self) -> str:
        """The name of the file with this entry."""
        return f"{INDEX}/{self._stem}.json"

    @property
    def _stem(self) -> str:
        return f"{'compacted-' if self.compacted else ''}{self.segment:08d}"


def read_entries(files: FileStore) -> list[IndexEntry]:
    """All entries: committed ones first, each kind in the order written."""
    read = (_read_entry(files, name) for name in files.names(INDEX) if name.endswith(".json"))
    return sorted((entry for entry in read if entry), key=lambda entry: (entry.compacted, entry.segment))


def last_segment(files: FileStore, compacted: bool) -> int:
    """The highest number any file or entry of that kind has, also one that was cut short; 0 if there is none."""
    names = [name for folder in (SEGMENTS, INDEX) for name in files.names(folder)]
    matches = [re.match(r"(compacted-)?(\d+)\.", name) for name in names]
    return max((int(match[2]) for match in matches if match and bool(match[1]) is compacted), default=0)


def write_segment(
    files: FileStore, segment: int, data: Stream, numbers: Sequence[int], lengths: Sequence[int]
) -> IndexEntry:
    """Store one IPC stream. Whatever it raises, nothing of it counts and, if the storage lets it, nothing is left."""
    checksum = xxhash.xxh3_64_hexdigest(data)
    entry = IndexEntry(segment, tuple(numbers), tuple(lengths), len(data), checksum)
    try:
        with files.create(entry.file) as file:
            file.write(data)
        write_entry(files, entry)
    except BaseException:
        with suppress(OSError):  # storage that failed may refuse this too; see `Ledger._enter` on what is left then
            remove(files, [entry])
        raise
    return entry


def write_entry(files: FileStore, entry: IndexEntry) -> None:
    """Write an entry: from now on its file counts."""
    with files.create(entry.index_file) as file:
        file.write(json.dumps(asdict(entry)).encode() + b"\n")


def remove(files: FileStore, entries: Sequence[IndexEntry]) -> None:
    """Remove files, their entries first: an entry always has its file."""
    files.remove([entry.index_file for entry in entries])
    files.remove([entry.file for entry in entries])


def load(files: FileStore, entry: IndexEntry, rows: Sequence[int]) -> tuple[pa.Table, list[int]]:
    """A table with (at least) these rows of a file, and where they lie in it.

    Raises:
        OSError: the file is damaged.
    """
    return _load_row_groups(files, entry, rows) if entry.compacted else (_load_stream(files, entry), list(rows))


def _load_stream(files: FileStore, entry: IndexEntry) -> pa.Table:
    with files.open(entry.file) as file:
        data = file.read()
    if xxhash.xxh3_64_hexdigest(data) != entry.checksum:
        raise OSError(f"{files}/{entry.file} is damaged: its checksum is not the one of its index entry")
    return pa.Table.from_batches(read_ipc(data), schema=SCHEMA)


def _load_row_groups(files: FileStore, entry: IndexEntry, rows: Sequence[int]) -> tuple[pa.Table, list[int]]:
    """Parquet checks each page it reads; the checksum of the whole file was checked when it was compacted."""
    with files.open(entry.file) as file:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        starts = np.array([0, *accumulate(sizes)])
        group_of = np.searchsorted(starts, rows, side="right") - 1
        groups = sorted(set(group_of.tolist()))
        table = parquet.read_row_groups(groups)
    offsets = dict(zip(groups, accumulate((sizes[group] for group in groups), initial=0), strict=False))
    rows_in_table = [
        row - int(starts[group]) + offsets[group] for row, group in zip(rows, group_of.tolist(), strict=True)
    ]
    return table.cast(SCHEMA), rows_in_table


def _read_entry(files: FileStore, name: str) -> IndexEntry | None:
    with files.open(f"{INDEX}/{name}") as file:
        text = file.read()
    if not text.endswith(b"\n"):
        return None
    fields = json.loads(text)
    return IndexEntry(**{**fields, "numbers": tuple(fields["numbers"]), "lengths": tuple(fields["lengths"])})

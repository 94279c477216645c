"""The files of a ledger, numbered. A file without its index, and what a crash cut short, do not count.

    segments/00000007.arrows                 commits one after another, each an Arrow IPC stream; about 16 MiB
    index/00000007.jsonl                     a line a commit: its rows, where it lies, its xxh3 checksum
    segments/compacted-00000001.parquet      the rows of some closed segments, in prompt order
    index/compacted-00000001.json            which rows, and which segments it took the place of
    index/discarded-00000001.json            which rows were thrown away so far, and which files had them

A commit's rows are written before its line, which makes them count, and nobody writes to a segment again after a
failure or after its process ended: a torn tail stays where it is, unread. Where files cannot be appended to (object
stores), a segment is one commit and one file: it begins with its line, and has none in the index.

A compacted file names the segments whose place it takes. Whatever is left of those is not read any more, so that its
one index file replaces all of them at once. Their numbers are never used again. In the same way what was thrown away
(`rollout.keep`) is one file that names compacted files: their rows count as stored, and cannot be read any more.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from unisd_rl.storage.stores import FileStore
from unisd_rl.transport.rollouts.number_set import NumberSet
from unisd_rl.transport.rollouts.schema import SCHEMA, Stream, read_ipc

SEGMENTS, INDEX = "segments", "index"
SEGMENT_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One commit: prompt number and completion tokens of each row, its place in its segment, xxh3-64 checksum (hex)."""

    segment: int
    numbers: tuple[int, ...]
    lengths: tuple[int, ...]
    offset: int
    nbytes: int
    checksum: str

    @property
    def file(self) -> str:
        """The name of the file with the rows."""
        return f"{SEGMENTS}/{self.segment:08d}.arrows"


@dataclass(slots=True, eq=False)
class Segment:
    """A file of commits. `index_nbytes` is the size of its index, which may be the same file."""

    number: int
    index_file: str
    entries: list[IndexEntry] = field(default_factory=list)
    index_nbytes: int = 0

    @property
    def file(self) -> str:
        """The name of the file with the rows."""
        return f"{SEGMENTS}/{self.number:08d}.arrows"

    @property
    def nbytes(self) -> int:
        """The size of that file."""
        return self.entries[-1].offset + self.entries[-1].nbytes if self.entries else 0


@dataclass(frozen=True, eq=False)
class CompactedFile:
    """Rows in prompt order, of `ranges` (each from a prompt number to before another), out of segments `replaces`.

    `tokens` are completion tokens of all rows. `offset` is 0: as of a commit, where its bytes begin.
    """

    number: int
    ranges: NDArray[np.int64]  # two columns; a list of tuples would take five times the memory
    tokens: int
    nbytes: int
    checksum: str
    replaces: NumberSet
    offset: int = 0

    @property
    def rows(self) -> int:
        """How many there are."""
        return int((self.ranges[:, 1] - self.ranges[:, 0]).sum())

    @property
    def first(self) -> int:
        """The lowest prompt number."""
        return int(self.ranges[0, 0])

    @property
    def end(self) -> int:
        """One more than the highest prompt number."""
        return int(self.ranges[-1, 1])

    def rows_of(self, numbers: Sequence[int]) -> dict[int, int]:
        """Which row each of these numbers is, of those that are here."""
        starts, stops = self.ranges.T
        first_rows = np.cumsum(stops - starts) - (stops - starts)
        wanted = np.asarray(numbers, np.int64)
        place = np.searchsorted(starts, wanted, side="right") - 1
        rows = np.where((place >= 0) & (wanted < stops[place]), first_rows[place] + wanted - starts[place], -1)
        return {number: row for number, row in zip(numbers, rows.tolist(), strict=True) if row >= 0}

    @property
    def file(self) -> str:
        """The name of the file with the rows."""
        return f"{SEGMENTS}/compacted-{self.number:08d}.parquet"

    @property
    def index_file(self) -> str:
        """The name of its index."""
        return f"{INDEX}/compacted-{self.number:08d}.json"


@dataclass(frozen=True)
class Discarded:
    """What was thrown away so far: the prompt `numbers` of the rows, their completion tokens, and by their numbers the
    compacted files that are gone, with the segments that those had replaced. The one of the highest `number` counts."""

    number: int = 0
    numbers: NumberSet = field(default_factory=NumberSet)
    tokens: int = 0
    compacted: NumberSet = field(default_factory=NumberSet)
    segments: NumberSet = field(default_factory=NumberSet)

    @property
    def index_file(self) -> str:
        """The name of its file."""
        return f"{INDEX}/discarded-{self.number:08d}.json"

    def with_files(self, gone: Sequence[CompactedFile]) -> "Discarded":
        """The same and these."""
        return Discarded(
            self.number + 1,
            NumberSet.from_ranges((*self.numbers.ranges, *(tuple(r) for file in gone for r in file.ranges.tolist()))),
            self.tokens + sum(file.tokens for file in gone),
            NumberSet((*self.compacted, *(file.number for file in gone))),
            NumberSet.from_ranges((*self.segments.ranges, *(r for file in gone for r in file.replaces.ranges))),
        )


Source: TypeAlias = IndexEntry | CompactedFile
Load: TypeAlias = Callable[[Source, Sequence[int]], tuple[pa.Table, Sequence[int]]]
"""A table with (at least) these rows of a source, and where they lie in it."""


class SegmentWriter:
    """Writes commits one after another: to one segment until it is full, as far as `files` can be appended to.

    `open` is the segment that the next one goes to, None where it begins one.
    """

    def __init__(self, files: FileStore, last_segment: int) -> None:
        self._files, self._last = files, last_segment
        self.open: Segment | None = None

    def write(self, data: Stream, numbers: Sequence[int], lengths: Sequence[int]) -> Segment:
        """Store one IPC stream, the last entry of the segment returned.

        Whatever it raises, nothing of it counts and, if the storage lets it, nothing is left.
        """
        segment, self.open = self.open or self._begin(), None  # after a failure nobody writes to this one again
        checksum = xxhash.xxh3_64_hexdigest(data)
        entry = IndexEntry(segment.number, tuple(numbers), tuple(lengths), segment.nbytes, len(data), checksum)
        line = _line(entry)
        try:
            if self._files.appends:
                self._files.append(segment.file, data, entry.offset)
                self._files.append(segment.index_file, line, segment.index_nbytes)
            else:
                entry = replace(entry, offset=len(line))
                self._files.append(segment.file, line + data, 0)
        except BaseException:
            with suppress(OSError):  # storage that failed may refuse this too; see `Ledger` on what is left then
                self._take_back(segment)
            raise
        segment.entries.append(entry)
        segment.index_nbytes += len(line)
        self.open = segment if self._files.appends and segment.nbytes < SEGMENT_BYTES else None
        return segment

    def _begin(self) -> Segment:
        self._last += 1
        segment = Segment(self._last, f"{INDEX}/{self._last:08d}.jsonl")
        if not self._files.appends:
            segment.index_file = segment.file
        return segment

    def _take_back(self, segment: Segment) -> None:
        """Cut off what the failed write left, its line first: a line always has its rows."""
        if segment.entries:
            self._files.append(segment.index_file, b"", segment.index_nbytes)
            self._files.append(segment.file, b"", segment.nbytes)
        else:
            remove(self._files, [segment])


def write_compacted(files: FileStore, file: CompactedFile) -> None:
    """Write the index of a compacted file: from now on it counts, and the segments that it replaces do not."""
    record = {
        "numbers": file.ranges.tolist(),
        "tokens": file.tokens,
        "nbytes": file.nbytes,
        "checksum": file.checksum,
        "replaces": file.replaces.ranges,
    }
    with files.create(file.index_file) as index:
        index.write(msgspec.json.encode(record) + b"\n")


def write_discarded(files: FileStore, discarded: Discarded) -> None:
    """Write what was thrown away: from now on those files do not count, and neither does an earlier such file."""
    record = {
        "numbers": discarded.numbers.ranges,
        "tokens": discarded.tokens,
        "compacted": discarded.compacted.ranges,
        "segments": discarded.segments.ranges,
    }
    with files.create(discarded.index_file) as index:
        index.write(msgspec.json.encode(record) + b"\n")


def remove(files: FileStore, gone: Sequence[Segment | CompactedFile]) -> None:
    """Remove files, what makes them count first."""
    files.remove([file.index_file for file in gone])
    files.remove([file.file for file in gone])


def gather(places: Sequence[tuple[Source, int]], load: Load) -> pa.Table:
    """The rows at these places, in this order, as one table. Each source is loaded once."""
    wanted: dict[tuple[str, int], tuple[Source, list[int]]] = {}
    for source, row in places:
        wanted.setdefault((source.file, source.offset), (source, []))[1].append(row)
    loaded = {key: load(source, rows) for key, (source, rows) in wanted.items()}
    places_in = {key: iter(rows) for key, (_, rows) in loaded.items()}
    runs: list[tuple[pa.Table, int, int]] = []  # rows start to stop - 1 of a table
    for source, _ in places:
        key = source.file, source.offset
        table, row = loaded[key][0], next(places_in[key])
        if runs and runs[-1][0] is table and runs[-1][2] == row:
            runs[-1] = table, runs[-1][1], row + 1
        else:
            runs.append((table, row, row + 1))
    if not runs:
        return SCHEMA.empty_table()
    # `take` on a table of many chunks copies all of it once more.
    return pa.concat_tables([table.slice(start, stop - start) for table, start, stop in runs]).combine_chunks()


def load(files: FileStore, source: Source, rows: Sequence[int]) -> tuple[pa.Table, Sequence[int]]:
    """`Load` from storage.

    Raises:
        OSError: the file is damaged.
    """
    if isinstance(source, CompactedFile):
        return _load_row_groups(files, source, rows)
    return _load_stream(files, source), rows


def _line(entry: IndexEntry) -> bytes:
    record = {name: getattr(entry, name) for name in ("numbers", "lengths", "offset", "nbytes", "checksum")}
    return msgspec.json.encode(record) + b"\n"


def _load_stream(files: FileStore, entry: IndexEntry) -> pa.Table:
    with files.open(entry.file) as file:
        file.seek(entry.offset)
        data = file.read(entry.nbytes)
    if xxhash.xxh3_64_hexdigest(data) != entry.checksum:
        raise OSError(f"{files}/{entry.file} is damaged: its checksum is not the one of its index entry")
    return pa.Table.from_batches(read_ipc(data), schema=SCHEMA)


def _load_row_groups(files: FileStore, source: CompactedFile, rows: Sequence[int]) -> tuple[pa.Table, list[int]]:
    """Parquet checks each page it reads; the checksum of the whole file was checked when it was compacted."""
    with files.open(source.file) as file:
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

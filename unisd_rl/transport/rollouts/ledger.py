"""The ledger of completed rollouts: numbered files in a file store (`segments.py` says which).

A prompt number is stored once; a later double is refused by its number. Rows are on storage before `append` returns;
small calls that arrive while others are being written share one commit, and one fsync (`group_commit.py`). Where each
row lies is known in memory only as long as it lies in a segment; closed segments are compacted in the background, so
that memory, and the number of files, do not grow with every rollout.

    append --> group --> refuse doubles --> segment, index entry (in a thread) --> entered, callers return
                                               |
                                               +-- full: closed --> compacted file (in a thread) --> segment removed

One process appends. Others may read what was there when they opened it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from unisd_rl.storage.stores import open_store
from unisd_rl.transport.rollouts.batch import completion_lengths
from unisd_rl.transport.rollouts.compaction import BackgroundCompaction, Compaction, Row, compact_segments, due_segments
from unisd_rl.transport.rollouts.group_commit import GroupCommit
from unisd_rl.transport.rollouts.index import read_index
from unisd_rl.transport.rollouts.number_set import NumberSet
from unisd_rl.transport.rollouts.schema import Stream, decode, read_table, rows_of, to_ipc
from unisd_rl.transport.rollouts.segments import (
    CompactedFile,
    IndexEntry,
    Segment,
    SegmentWriter,
    Source,
    gather,
    load,
    remove,
)
from unisd_rl.types import Rollout

_RECENT_BYTES = 128 << 20  # two batches of 2,048 rows of 23 KiB: the one being taken and the one before
_GROUP_BYTES = 4 << 20
_LARGE_CALL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Compacted:
    """What compactions did: rows moved, segments removed, their bytes and those of the compacted files."""

    rows: int
    segments: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, slots=True)
class _Call:
    data: Stream
    rows: pa.Table
    numbers: list[int]
    barred: Container[int]


class Ledger:
    """The rollouts of one run at `location`, a folder or an fsspec URL; opening it again restores what was stored.

    What was stored last is read from memory (up to 128 MiB, until `forget`), everything else from `location`, with its
    checksum.

    `fsync` makes every commit to a folder survive a power loss, not only a killed process. `numbers` are the stored
    prompt numbers, also of those `discarded`, `tokens` counts the completion tokens of their rows, `compacted` are the
    compacted files.

    Raises:
        UserError: `location` is a URL that cannot be reached.
    """

    def __init__(self, location: str | Path, fsync: bool) -> None:
        self._files, self._synced = open_store(location, fsync), open_store(location, fsync=True)
        self._recent: OrderedDict[tuple[str, int], tuple[IndexEntry, Stream]] = OrderedDict()
        self._recent_bytes = 0
        self._commit = GroupCommit(self._store, size=lambda call: len(call.data), limit=_GROUP_BYTES)
        self._open()
        self._appended = False

    def _open(self) -> None:
        """Enter what the index says."""
        index = read_index(self._files)
        self.discarded = index.discarded
        self.numbers, self.tokens = NumberSet.from_ranges(self.discarded.numbers.ranges), self.discarded.tokens
        self.compacted: list[CompactedFile] = []
        self._segments: dict[int, Segment] = {segment.number: segment for segment in index.segments}
        self._positions: dict[int, tuple[IndexEntry, int]] = {}
        self._next_compacted, self._leftovers = 1 + index.last_compacted, index.leftovers
        self._writer = SegmentWriter(self._files, index.last_segment)
        self._background = BackgroundCompaction(self._synced, index.leftovers)
        for file in index.compacted:
            self._enter_compacted(file)
        # A number may be there twice. Of segments the later one counts: storage failed when the row came to the earlier
        # one, refused to take it back, and its caller was told. A compacted file was made of rows that count.
        for segment in reversed(index.segments):
            for entry in segment.entries:
                self._enter(entry)

    def __contains__(self, number: int) -> bool:
        return number in self.numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def nbytes(self) -> int:
        """The size of the files with rows."""
        files: list[Segment | CompactedFile] = [*self._segments.values(), *self.compacted]
        return sum(file.nbytes for file in files)

    @property
    def entries(self) -> tuple[IndexEntry, ...]:
        """The commits that are not compacted, in the order they were stored."""
        return tuple(entry for segment in self._segments.values() for entry in segment.entries)

    async def append(self, data: Stream, barred: Container[int] = (), rows: pa.Table | None = None) -> tuple[int, ...]:
        """Store the rows of one IPC stream whose numbers are new; they are on storage when this returns.

        Returns the numbers stored, in row order. `rows` is the table of `data`, where the caller has read it already.

        Refused are rows whose number is `barred`, already stored, or came earlier in `data` or in a call that is
        written together with this one.

        Raises:
            ValueError: the stream has a foreign schema.
            OSError: the storage failed, e.g. a full disk. Nothing of this call is stored; it may be made again.
        """
        rows = read_table(data) if rows is None else rows
        return await self._commit(_Call(data, rows, rows["number"].to_pylist(), barred))

    def read(self, numbers: Sequence[int]) -> pa.Table:
        """The rows of these prompt numbers, in this order, as one table.

        Raises KeyError for a number that is not stored or was discarded, and OSError for a damaged segment.
        """
        try:
            return gather(self._places(numbers), self._load)
        except FileNotFoundError:
            if self._appended:
                raise
            self._open()  # the process that appends has compacted since this was opened
            return gather(self._places(numbers), self._load)

    def rollouts(self, numbers: Sequence[int]) -> list[Rollout]:
        """The rollouts of these prompt numbers, in this order."""
        return decode(to_ipc(*self.read(numbers).to_batches()))

    async def _store(self, calls: Sequence[_Call]) -> list[tuple[int, ...]]:
        """One group. Nothing else is being written now, so whether a number is new is certain."""
        seen: set[int] = set()
        fresh = [[row for row, number in enumerate(call.numbers) if self._is_new(number, seen, call)] for call in calls]
        if any(fresh):
            self._appended = True
            segment, data = await asyncio.to_thread(self._write, calls, fresh)
            self._segments[segment.number] = segment
            self._enter(segment.entries[-1])
            self._remember(segment.entries[-1], data)
            self._compact_in_background()
        return [tuple(call.numbers[row] for row in rows) for call, rows in zip(calls, fresh, strict=True)]

    def _write(self, calls: Sequence[_Call], fresh: Sequence[Sequence[int]]) -> tuple[Segment, Stream]:
        kept = [
            call.rows if len(rows) == call.rows.num_rows else rows_of(call.rows, rows)
            for call, rows in zip(calls, fresh, strict=True)
            if rows
        ]
        if len(calls) == 1 and kept[0] is calls[0].rows:
            table, data = kept[0], calls[0].data
        else:
            table = pa.concat_tables(kept)
            if table.nbytes < _LARGE_CALL_BYTES * len(kept):  # few rows a batch are slow to read
                table = table.combine_chunks()
            data = to_ipc(*table.to_batches())
        numbers = [call.numbers[row] for call, rows in zip(calls, fresh, strict=True) for row in rows]
        return self._writer.write(data, numbers, completion_lengths(table)), data

    def _remember(self, entry: IndexEntry, data: Stream) -> None:
        """Most rows are read soon after they came: the commit just entered, and a bounded number before it.

        The bytes and no table: one of a single small row takes 20 KiB.
        """
        self._recent[entry.file, entry.offset] = entry, data
        self._recent_bytes += entry.nbytes
        while len(self._recent) > 1 and self._recent_bytes > _RECENT_BYTES:
            self._forget_oldest()

    def forget(self, end: int) -> None:
        """Rows of prompt numbers below `end` are not read soon again: they need not be in memory. They stay stored.

        Goes on from the oldest commit to the first that has others.
        """
        while self._recent and max(next(iter(self._recent.values()))[0].numbers) < end:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, (oldest, _) = self._recent.popitem(last=False)
        self._recent_bytes -= oldest.nbytes
        if oldest.segment not in self._segments:
            self._forget_positions(oldest)

    def _is_new(self, number: int, seen: set[int], call: _Call) -> bool:
        new = not (number in self.numbers or number in seen or number in call.barred)
        if new:
            seen.add(number)
        return new

    def _enter(self, entry: IndexEntry) -> None:
        for row, (number, length) in enumerate(zip(entry.numbers, entry.lengths, strict=True)):
            if number not in self.numbers:
                self.numbers.add(number)
                self.tokens += length
                self._positions[number] = (entry, row)

    def _enter_compacted(self, file: CompactedFile) -> None:
        self.compacted.append(file)
        self.tokens += file.tokens
        for start, stop in file.ranges.tolist():
            self.numbers.add_range(start, stop)

    def _places(self, numbers: Sequence[int]) -> list[tuple[Source, int]]:
        """Where these rows lie. Raises KeyError for a number that is not stored."""
        places: dict[int, tuple[Source, int]] = {
            number: place for number in numbers if (place := self._positions.get(number))
        }
        if missing := [number for number in numbers if number not in places]:
            lowest, highest = min(missing), max(missing)
            for file in self.compacted:
                if file.first <= highest and file.end > lowest:
                    places.update((number, (file, row)) for number, row in file.rows_of(missing).items())
        return [places[number] for number in numbers]

    def _load(self, source: Source, rows: Sequence[int]) -> tuple[pa.Table, Sequence[int]]:
        if recent := self._recent.get((source.file, source.offset)):
            return read_table(recent[1]), rows
        return load(self._files, source, rows)

    def discard(self, end: int) -> None:
        """Throw away rollouts of prompt numbers below `end`, as far as whole compacted files have no others.

        Their numbers are still refused. It is done in the background; what the storage does not do is done next time.
        """
        if gone := [file for file in self.compacted if file.end <= end]:
            before, self.discarded = self.discarded, self.discarded.with_files(gone)
            self.compacted = [file for file in self.compacted if file.end > end]
            self._background.discard(before, self.discarded, gone)

    def compact(self) -> Compacted:
        """Compact all segments, of a ledger to which nothing is appended. Everything is synced to the disk.

        Raises:
            OSError: the storage failed, or what was written does not read back the same. All rows are still there.
        """
        done: list[Compaction] = []
        while segments := due_segments(list(self._segments.values()), all_of_them=True):
            done.append(compact_segments(self._synced, self._next_compacted, segments, self._rows_of))
            self._replace(done[-1])
            remove(self._synced, segments)
        self._synced.remove(self._leftovers)
        written = [compaction.file for compaction in done if compaction.file]
        return Compacted(
            rows=sum(file.rows for file in written),
            segments=sum(len(compaction.segments) for compaction in done),
            bytes_before=sum(segment.nbytes for compaction in done for segment in compaction.segments),
            bytes_after=sum(file.nbytes for file in written),
        )

    def _compact_in_background(self) -> None:
        """Take over what was compacted meanwhile, and begin with what is due."""
        if done := self._background.finished():
            self._replace(done)
            self._background.remove(done.segments)
        if done or self._writer.open is None:
            closed = [segment for segment in self._segments.values() if segment is not self._writer.open]
            self._background.start_if_due(self._next_compacted, closed, self._rows_of)

    def _rows_of(self, segments: Sequence[Segment]) -> list[Row]:
        """Those that count, in prompt order."""
        rows = (
            (number, entry, row)
            for segment in segments
            for entry in segment.entries
            for row, number in enumerate(entry.numbers)
            if self._counts(number, entry)
        )
        return sorted(rows, key=lambda row: row[0])

    def _replace(self, done: Compaction) -> None:
        """From now on rows are read from the compacted file, but for those that are in memory."""
        if done.file is not None:
            self.compacted.append(done.file)
            self._next_compacted = done.file.number + 1
        for segment in done.segments:
            del self._segments[segment.number]
            for entry in segment.entries:
                if (entry.file, entry.offset) not in self._recent:
                    self._forget_positions(entry)

    def _forget_positions(self, entry: IndexEntry) -> None:
        for number in entry.numbers:
            if self._counts(number, entry):
                del self._positions[number]

    def _counts(self, number: int, entry: IndexEntry) -> bool:
        """Whether this row of the entry is the one that is read: see `_open`."""
        place = self._positions.get(number)
        return place is not None and place[0] is entry

"""The ledger of completed rollouts: immutable numbered segments (`segments.py`) in a file store.

Nothing is ever appended to or changed, so the same layout suits a folder and an object store. A prompt number is
stored once; a later double is refused by its number. Rows are on storage before `append` returns; small calls
that arrive while others are being written share one segment, and one fsync (`group_commit.py`).

    append --> group --> refuse doubles --> segment, index entry (in a thread) --> entered, callers return

One process appends. Others may read what was there when they opened it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from unisd_rl.storage.stores import open_store
from unisd_rl.transport.rollouts.group_commit import GroupCommit
from unisd_rl.transport.rollouts.number_set import NumberSet
from unisd_rl.transport.rollouts.schema import SCHEMA, Stream, decode, read_ipc, rows_of, to_ipc
from unisd_rl.transport.rollouts.segments import IndexEntry, last_segment, load, read_entries, write_segment
from unisd_rl.types import Rollout

_RECENT_BYTES = 64 << 20
_GROUP_BYTES = 4 << 20
_LARGE_CALL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Call:
    data: Stream
    rows: pa.Table
    numbers: list[int]
    barred: Container[int]


class Ledger:
    """The rollouts of one run at `location`, a folder or an fsspec URL; opening it again restores what was stored.

    What was stored last is read from memory (up to 64 MiB), everything else from `location`, with its checksum.

    `fsync` makes every segment of a folder survive a power loss, not only a killed process. `tokens` counts the
    completion tokens of all stored rows.

    Raises:
        UserError: `location` is a URL that cannot be reached.
    """

    def __init__(self, location: str | Path, fsync: bool) -> None:
        self._files = open_store(location, fsync)
        self._entries: list[IndexEntry] = []
        self._positions: dict[int, tuple[int, int]] = {}
        self.tokens = 0
        self._recent: OrderedDict[int, pa.Table] = OrderedDict()
        self._recent_bytes = 0
        for entry in read_entries(self._files):
            self._enter(entry)
        self._next = 1 + last_segment(self._files, compacted=False)
        self._commit = GroupCommit(self._store, size=lambda call: call.rows.nbytes, limit=_GROUP_BYTES)

    def __contains__(self, number: int) -> bool:
        return number in self._positions

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def numbers(self) -> NumberSet:
        """All stored prompt numbers."""
        return NumberSet(sorted(self._positions))

    @property
    def entries(self) -> tuple[IndexEntry, ...]:
        """All index entries in the order they were stored."""
        return tuple(self._entries)

    async def append(self, data: Stream, barred: Container[int] = ()) -> tuple[int, ...]:
        """Store the rows of one IPC stream whose numbers are new; they are on storage when this returns.

        Returns the numbers stored, in row order.

        Refused are rows whose number is `barred`, already stored, or came earlier in `data` or in a call that is
        written together with this one.

        Raises:
            ValueError: the stream has a foreign schema.
            OSError: the storage failed, e.g. a full disk. Nothing of this call is stored; it may be made again.
        """
        rows = pa.Table.from_batches(read_ipc(data), schema=SCHEMA)
        return await self._commit(_Call(data, rows, rows["number"].to_pylist(), barred))

    def read(self, numbers: Sequence[int]) -> pa.Table:
        """The rows of these prompt numbers, in this order, as one table.

        Raises KeyError for a number that is not stored and OSError for a damaged segment.
        """
        wanted: dict[int, list[int]] = {}
        for entry, row in (self._positions[number] for number in numbers):
            wanted.setdefault(entry, []).append(row)
        tables, positions, offset = [], {}, 0
        for entry, rows in wanted.items():
            table, rows_in_table = (
                (self._recent[entry], rows) if entry in self._recent else load(self._files, self._entries[entry], rows)
            )
            positions[entry] = iter([offset + row for row in rows_in_table])
            tables.append(table)
            offset += table.num_rows
        if not tables:
            return SCHEMA.empty_table()
        return rows_of(pa.concat_tables(tables), [next(positions[self._positions[number][0]]) for number in numbers])

    def rollouts(self, numbers: Sequence[int]) -> list[Rollout]:
        """The rollouts of these prompt numbers, in this order."""
        return decode(to_ipc(*self.read(numbers).to_batches()))

    async def _store(self, calls: Sequence[_Call]) -> list[tuple[int, ...]]:
        """One group. Nothing else is being written now, so whether a number is new is certain."""
        seen: set[int] = set()
        fresh = [[row for row, number in enumerate(call.numbers) if self._is_new(number, seen, call)] for call in calls]
        if any(fresh):
            segment, self._next = self._next, self._next + 1  # never used again, whatever a failure leaves behind
            entry, rows = await asyncio.to_thread(self._write, segment, calls, fresh)
            self._enter(entry)
            self._remember(rows)
        return [tuple(call.numbers[row] for row in rows) for call, rows in zip(calls, fresh, strict=True)]

    def _write(
        self, segment: int, calls: Sequence[_Call], fresh: Sequence[Sequence[int]]
    ) -> tuple[IndexEntry, pa.Table]:
        kept = [
            call.rows if len(rows) == call.rows.num_rows else rows_of(call.rows, rows)
            for call, rows in zip(calls, fresh, strict=True)
            if rows
        ]
        table = pa.concat_tables(kept)
        if len(calls) == 1 and table.num_rows == calls[0].rows.num_rows:
            data = calls[0].data
        else:
            if table.nbytes < _LARGE_CALL_BYTES * len(kept):  # few rows a batch are slow to read
                table = table.combine_chunks()
            data = to_ipc(*table.to_batches())
        lengths = pc.list_value_length(table["completion_tokens"]).to_pylist()
        return write_segment(self._files, segment, data, table["number"].to_pylist(), lengths), table

    def _remember(self, rows: pa.Table) -> None:
        """Most rows are read soon after they came: the segment just entered, and a bounded number before it."""
        self._recent[len(self._entries) - 1] = rows
        self._recent_bytes += rows.nbytes
        while len(self._recent) > 1 and self._recent_bytes > _RECENT_BYTES:
            _, oldest = self._recent.popitem(last=False)
            self._recent_bytes -= oldest.nbytes

    def _is_new(self, number: int, seen: set[int], call: _Call) -> bool:
        new = not (number in self._positions or number in seen or number in call.barred)
        if new:
            seen.add(number)
        return new

    def _enter(self, entry: IndexEntry) -> None:
        """A number may be there already, in a segment that is being compacted or whose failure left it behind."""
        self._entries.append(entry)
        for row, (number, length) in enumerate(zip(entry.numbers, entry.lengths, strict=True)):
            if number in self._positions:
                earlier, its_row = self._positions[number]
                self.tokens -= self._entries[earlier].lengths[its_row]
            self._positions[number] = (len(self._entries) - 1, row)
            self.tokens += length

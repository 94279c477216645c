"""Where completed rollouts rest: immutable numbered Arrow segments, each with an index entry.

    segments/00000007.arrows   the rows, an Arrow IPC stream
    index/00000007.json        which prompt numbers it holds, its size and its xxh3 checksum

The index entry is written last and makes the segment count: a segment without one was cut short by
a crash and is ignored. Nothing is ever appended to or changed, so the same layout suits an object
store. A prompt number is stored once; a later double is refused by its number.
"""

import json
import os
from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from unisd_rl.transport.rollouts.schema import SCHEMA, decode, read_ipc, rows_of, to_ipc
from unisd_rl.types import Rollout


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """What a segment holds: prompt numbers in row order, completion tokens, bytes, xxh3-64 checksum (hex)."""

    segment: int
    numbers: tuple[int, ...]
    tokens: int
    nbytes: int
    checksum: str


class Appended(NamedTuple):
    """What became of the rows of one `append`: the numbers stored, in row order, and how many rows were refused."""

    stored: tuple[int, ...]
    refused: int


class Ledger:
    """The rollouts of one run under `directory`; opening a directory again restores what was stored.

    `fsync` makes every segment survive a power loss, not only a killed process.
    """

    def __init__(self, directory: Path, fsync: bool) -> None:
        self._segments, self._index, self._fsync = directory / "segments", directory / "index", fsync
        for folder in (self._segments, self._index):
            folder.mkdir(parents=True, exist_ok=True)
        self._entries: dict[int, IndexEntry] = {}
        self._place: dict[int, tuple[int, int]] = {}
        for path in sorted(self._index.glob("*.json")):
            self._enter(_read_entry(path))
        self._next = 1 + max((int(path.stem) for path in self._segments.glob("*.arrows")), default=0)

    def __contains__(self, number: int) -> bool:
        return number in self._place

    def __len__(self) -> int:
        return len(self._place)

    @property
    def entries(self) -> tuple[IndexEntry, ...]:
        """All index entries in the order they were stored."""
        return tuple(self._entries.values())

    @property
    def tokens(self) -> int:
        """Completion tokens of all stored rows."""
        return sum(entry.tokens for entry in self._entries.values())

    async def append(self, data: bytes, barred: Container[int] = ()) -> Appended:
        """Store the rows of one IPC stream whose numbers are new.

        Refused are rows whose number is `barred`, already stored, or came earlier in `data`. The rows
        are on storage when this returns. Raises ValueError on a foreign schema.
        """
        table = pa.Table.from_batches(read_ipc(data), schema=SCHEMA)
        numbers = table["number"].to_pylist()
        seen: set[int] = set()
        fresh = [row for row, number in enumerate(numbers) if self._is_new(number, seen, barred)]
        refused = table.num_rows - len(fresh)
        if not fresh:
            return Appended((), refused)
        if refused:
            table = rows_of(table, fresh)
            data = to_ipc(*table.to_batches())
        tokens = pc.sum(pc.list_value_length(table["completion_tokens"])).as_py()
        return Appended(self._store(data, tuple(numbers[row] for row in fresh), tokens), refused)

    def read(self, numbers: Sequence[int]) -> pa.Table:
        """The rows of these prompt numbers, in this order, as one table.

        Raises KeyError for a number that is not stored and OSError for a damaged segment.
        """
        places = [self._place[number] for number in numbers]
        tables = {segment: self._load(segment) for segment in sorted({segment for segment, _ in places})}
        if not tables:
            return SCHEMA.empty_table()
        starts = dict(zip(tables, np.cumsum([0, *(table.num_rows for table in tables.values())]), strict=False))
        rows = [int(starts[segment]) + row for segment, row in places]
        return rows_of(pa.concat_tables(tables.values()), rows)

    def rollouts(self, numbers: Sequence[int]) -> list[Rollout]:
        """The rollouts of these prompt numbers, in this order."""
        return decode(to_ipc(*self.read(numbers).to_batches()))

    def _is_new(self, number: int, seen: set[int], barred: Container[int]) -> bool:
        new = not (number in self._place or number in seen or number in barred)
        seen.add(number)
        return new

    def _store(self, data: bytes, numbers: tuple[int, ...], tokens: int) -> tuple[int, ...]:
        entry = IndexEntry(self._next, numbers, tokens, len(data), xxhash.xxh3_64_hexdigest(data))
        self._next += 1
        self._write(self._segment_path(entry.segment), data)
        self._write(self._index / f"{entry.segment:08d}.json", json.dumps(asdict(entry)).encode())
        self._enter(entry)
        return numbers

    def _enter(self, entry: IndexEntry) -> None:
        self._entries[entry.segment] = entry
        self._place.update((number, (entry.segment, row)) for row, number in enumerate(entry.numbers))

    def _load(self, segment: int) -> pa.Table:
        path, entry = self._segment_path(segment), self._entries[segment]
        data = path.read_bytes()
        if xxhash.xxh3_64_hexdigest(data) != entry.checksum:
            raise OSError(f"{path} is damaged: its checksum is not the one of its index entry")
        return pa.Table.from_batches(read_ipc(data), schema=SCHEMA)

    def _segment_path(self, segment: int) -> Path:
        return self._segments / f"{segment:08d}.arrows"

    def _write(self, path: Path, data: bytes) -> None:
        """All of the file or nothing: under another name first, then renamed."""
        temporary = path.with_suffix(path.suffix + ".part")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            if self._fsync:
                os.fsync(file.fileno())
        temporary.replace(path)
        if self._fsync:
            _sync_folder(path.parent)


def _read_entry(path: Path) -> IndexEntry:
    fields = json.loads(path.read_text())
    return IndexEntry(**{**fields, "numbers": tuple(fields["numbers"])})


def _sync_folder(folder: Path) -> None:
    """A rename is on the disk only once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

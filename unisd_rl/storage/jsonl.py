"""Append-only files of JSON objects, one a line, that survive a kill or a full disk in mid-write.

A last line without its newline was cut short by a crash: readers skip it, and the file's next owner takes it off.
At 64 MiB a file rolls over (`rolling.py`): readers are given the lines of all parts.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from unisd_rl.storage.files import sync_folder
from unisd_rl.storage.rolling import open_parts, place_before_end, roll_over
from unisd_rl.types import no_op

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = Mapping[str, Any]
Line = TypeVar("Line")
_JSON = msgspec.json.Encoder()
_BLOCK_BYTES = 1 << 20
_PART_BYTES = 64 << 20
_NEWEST_BYTES = 16 << 20  # thousands of steps


class JsonLinesFile:
    """The one writer of `path`. With `fsync` a line is also on the disk when it is in the file.

    `on_full` is called when a part was closed, before the next one gets its first line.
    """

    def __init__(self, path: Path, fsync: bool = False, on_full: Callable[[], None] = no_op) -> None:
        self._path, self._fsync, self._on_full, self._unwritten = path, fsync, on_full, b""
        if path.exists():
            os.truncate(path, _end_of_last_line(path))

    def append(self, records: "Iterable[Record | DataclassInstance]") -> None:
        """Add all records (of a dataclass: its fields), or none of them.

        Raises:
            OSError: the disk did not take them, e.g. because it is full. They may be appended again.
        """
        self._write(_JSON.encode_lines(records))

    def append_or_keep(self, record: Record) -> None:
        """Add one record; one that the disk does not take is kept in memory and written with a later one.

        For numbers and events: whoever cannot go on without a disk says so. nan is written as null.
        """
        self._unwritten += json.dumps(_nan_to_none(record)).encode() + b"\n"
        with suppress(OSError):
            self._write(self._unwritten)
            self._unwritten = b""

    def _write(self, data: bytes) -> None:
        if roll_over(self._path, _PART_BYTES, self._fsync):
            self._on_full()
        new, left = not self._path.exists(), memoryview(data)
        with self._path.open("ab", buffering=0) as file:
            end = file.tell()
            try:
                while left:  # one write takes what fits
                    left = left[os.write(file.fileno(), left) :]
                if self._fsync:
                    os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise
        if new and self._fsync:
            sync_folder(self._path.parent)


class LinesTail:
    """The complete lines that were written since they were last read; at first those of the last `nbytes`."""

    def __init__(self, path: Path, nbytes: int) -> None:
        self._path, self._part, self._offset = path, 0, 0
        with suppress(OSError):
            self._part, self._offset = place_before_end(path, nbytes)
        self._skip = self._offset > 0  # the first line may be cut

    def read(self) -> list[bytes]:
        """They, in order, without their newlines."""
        lines: list[bytes] = []
        for part, file in open_parts(self._path, self._part):
            file.seek(self._offset if part == self._part else 0)
            if self._skip:
                file.readline()
            self._part, self._offset, self._skip = part, file.tell(), False
            complete, newline, _ = file.read().rpartition(b"\n")
            self._offset += len(complete) + len(newline)
            lines += complete.splitlines()
        return lines


def newest_json_lines(path: Path) -> list[dict[str, Any]]:
    """As `read_json_lines`, of a long file the last 16 MiB."""
    decoder = msgspec.json.Decoder(dict[str, Any])
    return [decoder.decode(line) for line in LinesTail(path, _NEWEST_BYTES).read()]


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a file, in order; none where there is no file."""
    return list(iter_json_lines(path, dict[str, Any]))


def iter_json_lines(
    path: Path, kind: type[Line], from_older: Callable[[dict[str, Any]], Line] | None = None, first_part: int = 0
) -> Iterator[Line]:
    """The complete lines of a file of any length, in order, each as `kind`; none where there is no file.

    `from_older` makes one of lines that an earlier version wrote with other fields; parts below `first_part` are not
    read.
    """
    decoder, decoder_of_any = msgspec.json.Decoder(kind), msgspec.json.Decoder(dict[str, Any])
    for _, file in open_parts(path, first_part):
        torn = b""
        while block := file.read(_BLOCK_BYTES):
            lines, newline, torn = (torn + block).rpartition(b"\n")
            try:
                yield from decoder.decode_lines(lines + newline)
            except msgspec.ValidationError:
                if from_older is None:
                    raise
                yield from map(from_older, decoder_of_any.decode_lines(lines + newline))


def _end_of_last_line(path: Path) -> int:
    """The size of a file without a last line that was cut short."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _BLOCK_BYTES)
            file.seek(start)
            if newline := file.read(end - start).rfind(b"\n") + 1:
                return start + newline
            end = start
    return 0


def json_text(value: Any) -> str:
    """The text of a JSON file for people to read; nan is written as null."""
    return json.dumps(_nan_to_none(value), indent=2) + "\n"


def _nan_to_none(value: Any) -> Any:
    """JSON has no nan: null stands for a number that does not exist, however deep it lies."""
    if isinstance(value, Mapping):
        return {key: _nan_to_none(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_nan_to_none(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

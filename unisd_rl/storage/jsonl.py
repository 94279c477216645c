"""JSON lines that a run appends to while it lives: whole lines only, and a full disk does not end the run.

A small append-only file of JSON lines that survives being killed in mid-write.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from unisd_rl.storage.stores import sync_folder

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class LineFile:
    """Appends to `path`. What the disk does not take is kept in memory and written with a later line.

    A last line without its newline was cut short by a crash: it is taken off at opening.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._unwritten = path, b""
        if path.exists():
            data = path.read_bytes()
            os.truncate(path, data.rfind(b"\n") + 1)

    def append(self, line: Mapping[str, Any]) -> None:
        """Add one line; with the system when this returns, or still here where the disk is full."""
        self._unwritten += json.dumps(nan_to_none(line)).encode() + b"\n"
        try:
            with self._path.open("ab", buffering=0) as file:
                self._write(file.fileno(), file.tell())
        except OSError:
            return  # kept for the next time: whoever cannot go on without a disk says so
        self._unwritten = b""

    def _write(self, descriptor: int, end: int) -> None:
        try:
            written = os.write(descriptor, self._unwritten)
            if written < len(self._unwritten):
                raise OSError(f"{written} of {len(self._unwritten)} bytes were taken")
        except OSError:
            os.ftruncate(descriptor, end)
            raise


def nan_to_none(value: Any) -> Any:
    """JSON has no nan: null stands for a number that does not exist, however deep it lies."""
    if isinstance(value, Mapping):
        return {key: nan_to_none(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_none(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


Record = Mapping[str, int | str | None]

_JSON = msgspec.json.Encoder()


class Journal:
    """Appends records to `path`, one JSON object a line; `restored` holds those found there at opening.

    A last line without its newline was cut short by a crash: it is taken off at opening, so that the
    next record starts on a line of its own.
    """

    def __init__(self, path: Path, fsync: bool) -> None:
        self._path, self._fsync = path, fsync
        self.restored: tuple[Record, ...] = ()
        if path.exists():
            self._restore()

    def append(self, records: "Sequence[Record | DataclassInstance]") -> None:
        """Write all records (of a dataclass: its fields) in one go; on the disk before it returns if `fsync`.

        Raises:
            OSError: the storage failed, e.g. a full disk. None of the records is there; they may be appended again.
        """
        lines = _JSON.encode_lines(records)
        new = not self._path.exists()
        with self._path.open("ab", buffering=0) as file:
            length = file.tell()
            try:
                self._write(file, lines)
            except OSError:
                file.truncate(length)
                raise
        if new and self._fsync:
            sync_folder(self._path.parent)

    def _write(self, file: FileIO, data: bytes) -> None:
        left = memoryview(data)
        while left:  # one write takes what fits
            left = left[file.write(left) :]
        if self._fsync:
            os.fsync(file.fileno())

    def _restore(self) -> None:
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self._path, len(whole))
        self.restored = tuple(msgspec.json.decode(line) for line in whole.splitlines())

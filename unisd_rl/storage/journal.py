"""A small append-only file of JSON lines that survives being killed in mid-write."""

import os
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from unisd_rl.storage.stores import sync_folder

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

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

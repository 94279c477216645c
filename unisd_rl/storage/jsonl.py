"""JSON lines that a run appends to while it lives: whole lines only, and a full disk does not end the run."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


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
        self._unwritten += json.dumps(plain(line)).encode() + b"\n"
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


def plain(value: Any) -> Any:
    """JSON has no nan: null stands for a number that does not exist, however deep it lies."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

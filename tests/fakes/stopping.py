"""A process that stops after any of its file operations, played inside this one.

Python announces each file that is opened, renamed, removed, made or cut before it happens. After so many of them
under one folder all others fail: what is on the disk then is what a killed process leaves.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_WRITES = {"os.rename": 2, "os.remove": 1, "os.mkdir": 1, "os.truncate": 1, "os.rmdir": 1}  # how many paths


class Stop:
    """Lets `operations` under `folder` happen. `stopped`: whether another one was tried."""

    def __init__(self, folder: Path, operations: int) -> None:
        self._folder, self._left, self.stopped = str(folder), operations, False

    def announce(self, event: str, arguments: tuple) -> None:
        """Called before each operation; raises OSError for one too many."""
        if event == "open":
            paths = arguments[:1]  # to read too: a folder is synced through a file that reads it
            counts = isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        elif event in _WRITES:
            paths, counts = arguments[: _WRITES[event]], True
        else:
            return
        if not any(isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self._folder) for path in paths):
            return
        if self._left <= 0 and (counts or self.stopped or os.path.isdir(paths[0])):
            self.stopped = True
            raise OSError(f"stopped before {event} of {paths}")
        self._left -= counts


_current: Stop | None = None


def _hook(event: str, arguments: tuple) -> None:
    if _current is not None:
        _current.announce(event, arguments)


sys.addaudithook(_hook)  # cannot be taken back: it does nothing outside `stops_after`


@contextmanager
def stops_after(folder: Path, operations: int) -> Iterator[Stop]:
    """Inside, `operations` changes of files under `folder` happen, and none after them."""
    global _current
    _current = Stop(folder, operations)
    try:
        yield _current
    finally:
        _current = None

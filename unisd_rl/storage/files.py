"""Files of a run's folder that are there as a whole or as they were before.

One owner of a folder at a time, whatever becomes of it: the system lets go of a lock when its process ends.

The digest of a file of any size.
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import xxhash

from unisd_rl.errors import RunFailed


class WriteError(RunFailed):
    """The disk did not take a file, for example because it is full: it may be written again."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A name to write to in this block; at its end the file gets its own. A process that is killed meanwhile leaves
    none that is cut short.

    Raises:
        OSError: the disk does not take it. What was there before still is.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def write_text_atomic(path: Path, text: str) -> None:
    """A text file by `atomic_write`."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def raise_write_error(path: Path) -> Iterator[None]:
    """What the disk refuses in this block is `WriteError`, with the file's name and the remedy."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise WriteError(f"{path} cannot be written: {why}; make room, then go on with --resume") from error


_POLL_S = 0.2


class FolderLock:
    """The lock `name` in `folder`; held until `close`, or until this process ends."""

    def __init__(self, folder: Path, name: str = "lock") -> None:
        self._file = (folder / name).open("a")

    def take(self, timeout_s: float = 0.0) -> bool:
        """Whether nobody else held it, or let go of it within `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline_s:
                    return False
                time.sleep(_POLL_S)
            else:
                return True

    def close(self) -> None:
        """Let go of it."""
        self._file.close()


_BLOCK_BYTES = 1 << 24
_State = TypeVar("_State", xxhash.xxh3_64, xxhash.xxh3_128)


def hash_file(state: _State, path: Path) -> _State:
    """`state`, which has read this file too, block by block."""
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            state.update(block)
    return state

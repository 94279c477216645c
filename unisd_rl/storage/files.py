"""Atomic file writes, the lock of a run's folder, and file checksums."""

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import xxhash

from unisd_rl.errors import RunFailed


class WriteError(RunFailed):
    """The disk did not take a file, for example because it is full: it may be written again."""


@contextmanager
def atomic_write(path: Path, fsync: bool = False) -> Iterator[Path]:
    """A name to write to in this block; at its end the file gets its own. A process that is killed meanwhile leaves
    none that is cut short. With `fsync` its bytes are on the disk before its name is.

    Raises:
        OSError: the disk does not take it. What was there before still is.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # two processes may write the same file
    try:
        yield partial
        if fsync:
            sync_file(partial)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def write_text_atomic(path: Path, text: str, fsync: bool = False) -> None:
    """Write a text file as `atomic_write` does."""
    with atomic_write(path, fsync) as partial:
        partial.write_text(text, encoding="utf-8")


def replace_directory(partial: Path, path: Path) -> None:
    """Give the complete folder `partial` the name `path`; a folder that had the name is there until then."""
    old = path.with_name(f"{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    partial.rename(path)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def raise_write_error(path: Path) -> Iterator[None]:
    """What the disk refuses in this block is a `WriteError`, with the file's name and the remedy."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise WriteError(f"{path} cannot be written: {why}; make room, then resume with --resume") from error


def sync_file(path: Path) -> None:
    """Put the bytes of a file on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_LOCK_NAME, _POLL_S = "lock", 0.2


class FolderLock:
    """The lock of a folder: one owner at a time, until `close` or the end of its process, however it ends.

    Ours and not the library `filelock`, which cannot look at a lock that it may only read (`is_locked`), and by default
    falls back to one that stays behind after `kill -9` where the file system has no locks.
    """

    def __init__(self, folder: Path, name: str = _LOCK_NAME) -> None:
        self._file = (folder / name).open("a")

    def acquire(self, timeout_s: float = 0.0) -> bool:
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


def is_locked(folder: Path) -> bool:
    """Whether a process that lives owns this folder: whether its run is alive. Nothing is written."""
    try:
        with (folder / _LOCK_NAME).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def hash_file(algorithm: "Callable[[], xxhash.xxh3_64 | xxhash.xxh3_128]", path: Path) -> "hashlib._Hash":
    """The state of a new `algorithm` that has read this file, of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm)

"""An object store in memory that behaves like a remote one, counts what it is asked to do, and may stop.

An object is there when its file is closed, whoever closes it: fsspec's files do so too when they are thrown away.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractBufferedFile

COUNTED = "counted"
_counters: list["Counter"] = []


class Counter:
    """The names that were `put` and `deleted`. After `operations` of both no more happen, and it has `stopped`."""

    def __init__(self, operations: int | None = None) -> None:
        self._left, self.stopped = operations, False
        self.put: list[str] = []
        self.deleted: list[str] = []

    def count(self, names: list[str], path: str) -> None:
        if self._left == 0:
            self.stopped = True
            raise OSError(f"stopped before {path}")
        if self._left is not None:
            self._left -= 1
        names.append("/".join(path.rsplit("/", 2)[1:]))


class CountedStore(MemoryFileSystem):
    protocol = COUNTED

    def _open(self, path, mode="rb", block_size=None, **settings):
        return Upload(self, path, mode) if mode == "wb" else super()._open(path, mode, block_size, **settings)

    def put_whole(self, path, data):
        for counter in _counters:
            counter.count(counter.put, path)
        super()._open(path, "wb", data=data)

    def rm_file(self, path):
        if self.exists(path):
            for counter in _counters:
                counter.count(counter.deleted, path)
        super().rm_file(path)


class Upload(AbstractBufferedFile):
    """A file being written to `CountedStore`."""

    def _initiate_upload(self):
        self.parts = b""

    def _upload_chunk(self, final=False):
        self.parts += self.buffer.getvalue()
        if final:
            self.fs.put_whole(self.path, self.parts)
        return True


fsspec.register_implementation(COUNTED, CountedStore, clobber=True)


@contextmanager
def counted(operations: int | None = None) -> Iterator[Counter]:
    """Inside, the store counts; with `operations` it stops after so many."""
    _counters.append(counter := Counter(operations))
    try:
        yield counter
    finally:
        _counters.remove(counter)

"""An object store that can be told to fail, with an error of its own that is no OSError, as botocore's are not."""

from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

FAILING = "failing"
_failing_in: str | None = None


class ClientError(Exception):
    """The store's own."""


class FailingStore(MemoryFileSystem):
    """In memory. While it fails, no file is opened in a folder of a name, and none is removed anywhere."""

    protocol = FAILING

    def _open(self, path, mode="rb", **settings):
        if _failing_in is not None and _failing_in in path:
            raise ClientError("An error occurred (SlowDown) when calling the PutObject operation")
        return super()._open(path, mode, **settings)

    def rm_file(self, path):
        if _failing_in is not None:
            raise ClientError("An error occurred (SlowDown) when calling the DeleteObject operation")
        super().rm_file(path)


fsspec.register_implementation(FAILING, FailingStore, clobber=True)


@contextmanager
def store_fails_in(folder: str) -> Iterator[None]:
    """Inside, the store fails in folders of this name."""
    global _failing_in
    _failing_in = folder
    try:
        yield
    finally:
        _failing_in = None

"""Real writes that fail: on a device without room, or half way through a file."""

import resource
from contextlib import contextmanager


@contextmanager
def full_device(path):
    """The file of that name lies on a device without room."""
    path.symlink_to("/dev/full")
    yield


@contextmanager
def files_of_at_most(nbytes):
    """A write beyond it stops half way, as on a disk that fills up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

"""What carries the processes of this run: Ray, unless `using` says otherwise. So a process that Ray started has Ray."""

from collections.abc import Iterator
from contextlib import contextmanager

from unisd_rl.cluster.processes import Runtime

_in_use: list[Runtime] = []


def runtime() -> Runtime:
    """The one in use here."""
    if _in_use:
        return _in_use[-1]
    from unisd_rl.cluster.ray_runtime import RAY

    return RAY


@contextmanager
def using(other: Runtime) -> Iterator[None]:
    """Within this block `other` is the one in use."""
    _in_use.append(other)
    try:
        yield
    finally:
        _in_use.remove(other)

"""Ctrl-C and SIGTERM as a request to stop after the present step, so that a checkpoint is saved first."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """A signal handler that remembers the first signal; `notice` is called then."""

    def __init__(self, notice: Callable[[], None]) -> None:
        self.requested = False
        self._notice = notice

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Note the first signal; the second ends the step at once."""
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self._notice()


@contextmanager
def stop_request(notice: Callable[[], None]) -> Iterator[StopRequest]:
    """In this block SIGINT and SIGTERM set the request instead of ending the process."""
    request = StopRequest(notice)
    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, action in previous.items():
            signal.signal(number, action)

"""Ctrl-C and SIGTERM as a wish to stop at the next step: nothing is torn, and the run says how to go on."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """True once somebody asked the run to stop."""

    def __init__(self, notice: Callable[[], None]) -> None:
        self.requested = False
        self._notice = notice

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """The first signal is noted; the second ends the wait for the step at once."""
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self._notice()


@contextmanager
def stop_request(notice: Callable[[], None]) -> Iterator[StopRequest]:
    """Within this block SIGINT and SIGTERM set the request instead of ending the process."""
    request = StopRequest(notice)
    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, action in previous.items():
            signal.signal(number, action)

"""SIGINT and SIGTERM as requests to stop: Ctrl-C, and what Kubernetes, Slurm and `ray job stop` send.

```
 anywhere          first signal -> KeyboardInterrupt at once; what is open is closed on its way out
 in `deferred`     first signal -> noted, so that a step is completed; a second one -> KeyboardInterrupt
 on its way out    a further one -> the process ends hard; those that it started notice that, and end too
```

A process has one handler of a signal, so there is one `StopSignals`, `STOP`: `cli.exit_code` installs it before
anything heavy is imported, and `cluster/ray_cluster.py` sees to it that Ray leaves it in place.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from unisd_rl.terminal import write_at_once
from unisd_rl.types import no_op

STOPPED = 130
"""Exit code of a command that was stopped by either signal: a shell's after Ctrl-C."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAME_S = 0.5  # `timeout` and some schedulers signal a process and then its group: that is one request


def _end_hard() -> None:
    """As `kill -9` would: Ray's processes, engines and sandboxes end when the process that started them has."""
    write_at_once(b"stopped at once\n")
    os._exit(STOPPED)


class StopSignals:
    """The handler of both signals. `clock` returns seconds; `end_hard` ends the process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, end_hard: Callable[[], None] = _end_hard) -> None:
        self._clock, self._end_hard = clock, end_hard
        self._notice: Callable[[], None] = no_op
        self._reset()

    def _reset(self) -> None:
        self._signal: signal.Signals | None = None
        self._last_s = float("-inf")
        self._deferring = self._leaving = False

    @property
    def requested(self) -> bool:
        """Whether a stop was requested."""
        return self._signal is not None

    @property
    def reason(self) -> str:
        """The signal that requested the stop, `SIGINT` or `SIGTERM`; empty where none did."""
        return "" if self._signal is None else self._signal.name

    @contextmanager
    def handling(self, ends_process: bool = False) -> Iterator[None]:
        """In this block, which is a command, the signals are requests; one of an earlier command counts no more.

        `ends_process`: after it the process ends, with the command's exit code, which a late signal must not change.
        """
        self._reset()
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        _set(dict.fromkeys(_SIGNALS, self))
        try:
            yield
        finally:
            if self.requested:
                self._leaving = True  # a further one ends it hard, with the same exit code
            else:
                _set(dict.fromkeys(_SIGNALS, signal.SIG_IGN) if ends_process else before)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """In this block no library replaces the handlers: that of `ray.init` ends the process by itself."""
        set_handler, before = signal.signal, {number: signal.getsignal(number) for number in _SIGNALS}

        def leave_alone(number: int, handler: Any) -> Any:
            return signal.getsignal(number) if number in _SIGNALS else set_handler(number, handler)

        signal.signal = leave_alone  # type: ignore[assignment]
        try:
            yield
        finally:
            signal.signal = set_handler
            _set(before)  # what native code replaced, Python does not know

    @contextmanager
    def deferred(self, notice: Callable[[], None] = no_op) -> Iterator[None]:
        """In this block the first signal is noted only, and `notice` called; the block asks `requested`."""
        before = self._deferring, self._notice
        self._deferring, self._notice = True, notice
        try:
            yield
        finally:
            self._deferring, self._notice = before

    @contextmanager
    def ended_at_once(self) -> Iterator[None]:
        """Within `deferred`, a block that the first signal ends, and nothing but this block."""
        before, self._deferring = self._deferring, False
        try:
            yield
        except KeyboardInterrupt:
            if not self.requested:  # raised by hand, or before this was the handler
                raise
            self._leaving = False
        finally:
            self._deferring = before

    def check(self) -> None:
        """Raise KeyboardInterrupt if a stop was requested: after a block of `deferred`."""
        if self.requested:
            self._leave()

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal; see the module."""
        now_s = self._clock()
        if now_s < self._last_s + _SAME_S:
            return
        first, self._signal, self._last_s = not self.requested, signal.Signals(signum), now_s
        if self._leaving:
            self._end_hard()
        if first:
            self._notice()
        if not first or not self._deferring:
            self._leave()

    def _leave(self) -> None:
        self._leaving = True
        raise KeyboardInterrupt


def _set(handlers: Mapping[signal.Signals, Any]) -> None:
    """Set the handlers of signals; another than the main thread may not, and sets none."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if handler is not None:  # None: not set by Python
                signal.signal(number, handler)


STOP = StopSignals()
"""The one of this process."""

"""Waiting for calls of processes, looking after the others meanwhile, and a process that hangs.

Ray starts a queue or a store again when its process ends, and does nothing about one that hangs: whoever finds it
unresponsive ends it.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

from unisd_rl.cluster.processes import Call, Handle, Unreachable
from unisd_rl.cluster.runtime import runtime
from unisd_rl.terminal import say
from unisd_rl.types import OnWait, no_op

CHECK_S = 1.0
"""How often a wait looks after the others."""
FETCH_S = 60.0
"""How long the answer of an ended call may take to come: it is small, but may lie on another machine."""

Answer = TypeVar("Answer")


def wait(calls: Sequence[Call[Any]], timeout_s: float, on_wait: OnWait = no_op) -> list[Call[Any]]:
    """The call that has ended, as soon as one has; empty after `timeout_s` seconds.

    `on_wait` is called about once a second meanwhile; what it raises ends the wait.
    """
    end_s = time.monotonic() + timeout_s
    while (left_s := end_s - time.monotonic()) > 0.0:
        if not calls:
            runtime().sleep(min(CHECK_S, left_s))
        elif ended := runtime().wait(calls, min(CHECK_S, left_s)):
            return ended
        on_wait()
    return runtime().wait(calls, 0.0) if calls else []


def done(call: Call[Any]) -> bool:
    """Whether it has ended, well or not."""
    return bool(runtime().wait([call], 0.0))


def fetch(call: Call[Any], timeout_s: float = FETCH_S) -> Any:
    """The answer to a call that has ended, or is expected to end within `timeout_s` seconds; raises as `Runtime.get`
    does."""
    return runtime().get(call, timeout_s)


def wait_until(
    ready: Callable[[], bool], limit_s: float, awaited: str, look: Callable[[], None], quiet_s: float = 0.0
) -> bool:
    """Whether `ready()` within `limit_s` seconds; `look`, which takes a moment, is called between two tries.

    After `quiet_s` seconds the console says once what is waited for: a job whose nodes never come looks alike.
    """
    began_s, said = time.monotonic(), False
    while not ready():
        waited_s = time.monotonic() - began_s
        if waited_s > limit_s:
            return False
        if not said and waited_s >= quiet_s:
            say(f"waiting up to {limit_s:g} s for {awaited}")
            said = True
        look()
    return True


def pause(seconds: float, on_wait: OnWait = no_op) -> None:
    """Sleep, calling `on_wait` as `wait` does."""
    wait((), seconds, on_wait)


class Heartbeat(Generic[Answer]):
    """Keeps one question with an actor and never waits for the answer: an actor that is stopped looks just like one
    that has nothing to say. `clock` returns seconds."""

    def __init__(
        self, ask: Callable[[], Call[Answer]], silent_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask, self.silent_s, self._clock = ask, silent_s, clock
        self._asked: Call[Answer] | None = None
        self._asked_s = 0.0
        self._unanswered_since_s: float | None = None
        self.answer: Answer | None = None

    @property
    def unanswered_s(self) -> float:
        """Seconds since the first question after the last answer; 0 while none is open."""
        return 0.0 if self._unanswered_since_s is None else self._clock() - self._unanswered_since_s

    def unresponsive(self) -> bool:
        """Whether a question has had no answer for `silent_s`; said once, then the next one is asked.

        An actor that died as it answered hangs no more, but that is no answer either. The last one is `answer`.
        """
        if self._asked is None:
            self._asked, self._asked_s = self._ask(), self._clock()
            if self._unanswered_since_s is None:
                self._unanswered_since_s = self._asked_s
        ended = done(self._asked)
        if ended:
            with suppress(Unreachable):
                self.answer, self._unanswered_since_s = fetch(self._asked, self.silent_s), None
        hung = not ended and self._clock() > self._asked_s + self.silent_s
        if ended or hung:
            self._asked = None
        return hung


def kill_hung(process: Handle) -> None:
    """End a process that does not answer; it is started again, as often as its options say."""
    runtime().kill(process, restart=True)

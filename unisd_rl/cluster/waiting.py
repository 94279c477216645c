"""Waiting for calls of Ray actors, looking after the others meanwhile, and noticing an actor that hangs.

Ray starts a queue or a store again when its process ends, and does nothing about one that hangs: whoever finds it
unresponsive ends it.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from unisd_rl.types import OnWait, no_op

CHECK_S = 1.0
"""How often a wait looks after the others."""

Answer = TypeVar("Answer")


def wait(
    calls: "Sequence[ray.ObjectRef[Any]]", timeout_s: float, on_wait: OnWait = no_op
) -> "list[ray.ObjectRef[Any]]":
    """The call that has ended, as soon as one has; empty after `timeout_s` seconds.

    `on_wait` is called about once a second meanwhile; what it raises ends the wait.
    """
    end_s = time.monotonic() + timeout_s
    while (left_s := end_s - time.monotonic()) > 0.0:
        if not calls:
            time.sleep(min(CHECK_S, left_s))
        elif ended := ray.wait(list(calls), timeout=min(CHECK_S, left_s))[0]:
            return ended
        on_wait()
    return ray.wait(list(calls), timeout=0)[0] if calls else []


def pause(seconds: float, on_wait: OnWait = no_op) -> None:
    """Sleep, calling `on_wait` as `wait` does."""
    wait((), seconds, on_wait)


class Heartbeat(Generic[Answer]):
    """Keeps one question with an actor and never waits for the answer: an actor that is stopped looks just like one
    that has nothing to say. `clock` returns seconds."""

    def __init__(
        self, ask: "Callable[[], ray.ObjectRef[Answer]]", silent_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask, self.silent_s, self._clock = ask, silent_s, clock
        self._asked: ray.ObjectRef[Answer] | None = None
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
        ended = bool(ray.wait([self._asked], timeout=0)[0])
        if ended:
            with suppress(RayActorError):
                self.answer, self._unanswered_since_s = ray.get(self._asked, timeout=self.silent_s), None
        hung = not ended and self._clock() > self._asked_s + self.silent_s
        if ended or hung:
            self._asked = None
        return hung


def kill_hung(actor: ActorHandle) -> None:
    """End a process that does not answer; Ray starts it again, as often as its `max_restarts` says."""
    ray.kill(actor, no_restart=False)

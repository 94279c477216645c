"""Whether a process answers at all: one that is stopped looks just like one that has nothing to say.

Ray starts a queue or a store again when its process ends, and does nothing about one that hangs; whoever finds it
silent ends it.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

Answer = TypeVar("Answer")


class Heartbeat(Generic[Answer]):
    """Keeps one question with an actor and never waits for the answer. `clock` returns seconds."""

    def __init__(
        self, ask: "Callable[[], ray.ObjectRef[Answer]]", silent_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask, self.silent_s, self._clock = ask, silent_s, clock
        self._asked: ray.ObjectRef[Answer] | None = None
        self._asked_s = 0.0
        self._in_vain_since_s: float | None = None
        self.answer: Answer | None = None

    @property
    def in_vain_s(self) -> float:
        """Seconds since the first question after the last answer; 0 while none is open."""
        return 0.0 if self._in_vain_since_s is None else self._clock() - self._in_vain_since_s

    def silent(self) -> bool:
        """Whether a question has had no answer for `silent_s`; said once, then the next one is asked.

        Who died as it answered hangs no more, but that is no answer either. The last one is `answer`.
        """
        if self._asked is None:
            self._asked, self._asked_s = self._ask(), self._clock()
            if self._in_vain_since_s is None:
                self._in_vain_since_s = self._asked_s
        ended = bool(ray.wait([self._asked], timeout=0)[0])
        if ended:
            with suppress(RayActorError):
                self.answer, self._in_vain_since_s = ray.get(self._asked, timeout=self.silent_s), None
        silent = not ended and self._clock() > self._asked_s + self.silent_s
        if ended or silent:
            self._asked = None
        return silent


def end_hanging(actor: ActorHandle) -> None:
    """End a process that does not answer; Ray starts it again, as often as its `max_restarts` says."""
    ray.kill(actor, no_restart=False)

"""Whether a process answers at all: one that is stopped looks just like one that has nothing to say.

Ray starts a queue or a store again when its process ends, and does nothing about one that hangs; whoever finds it
silent ends it.
"""

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.actor import ActorHandle


class Heartbeat:
    """Keeps one question with an actor and never waits for the answer. `clock` returns seconds."""

    def __init__(
        self, ask: "Callable[[], ray.ObjectRef[Any]]", silent_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask, self.silent_s, self._clock = ask, silent_s, clock
        self._asked: ray.ObjectRef[Any] | None = None
        self._asked_s = 0.0

    def silent(self) -> bool:
        """Whether a question has had no answer for `silent_s`; said once, then the next one is asked. An error is an
        answer: who has died hangs no more."""
        if self._asked is None:
            self._asked, self._asked_s = self._ask(), self._clock()
        answered = bool(ray.wait([self._asked], timeout=0)[0])
        silent = not answered and self._clock() > self._asked_s + self.silent_s
        if answered or silent:
            self._asked = None
        return silent


def end_hanging(actor: ActorHandle) -> None:
    """End a process that does not answer; Ray starts it again, as often as its `max_restarts` says."""
    ray.kill(actor, no_restart=False)

"""Calls to a process that may be away for a while: asked again, with back-off, until the patience ends.

Whether a process answers at all: one that is stopped looks just like one that has nothing to say.

Ray starts a queue or a store again when its process ends, and does nothing about one that hangs; whoever finds it
silent ends it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from unisd_rl.config.run import FaultsConfig
from unisd_rl.errors import RunFailed

Result = TypeVar("Result")


async def retry(
    call: Callable[[], Awaitable[Result]], again: tuple[type[Exception], ...], faults: FaultsConfig, what: str
) -> Result:
    """What `call` returns, once it does not raise one of `again`. A call must be safe to repeat.

    Raises:
        RunFailed: `faults.patience_s` seconds after the first failure; `what` says what was wanted, e.g. `the rollout
            queue to store rollouts`.
    """
    clock = asyncio.get_running_loop().time
    wait_s, deadline_s = faults.backoff_s, None
    while True:
        try:
            return await call()
        except again as error:
            deadline_s = deadline_s or clock() + faults.patience_s
            if clock() + wait_s > deadline_s:
                reason = (str(error) or type(error).__name__).splitlines()[-1]  # Ray puts a remote traceback before it
                raise RunFailed(
                    f"waited faults.patience_s = {faults.patience_s:g} s for {what}; the last time: {reason}"
                ) from error
        await asyncio.sleep(wait_s)
        wait_s = min(2.0 * wait_s, faults.backoff_max_s)


Answer = TypeVar("Answer")


class Heartbeat(Generic[Answer]):
    """Keeps one question with an actor and never waits for the answer. `clock` returns seconds."""

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

        Who died as it answered hangs no more, but that is no answer either. The last one is `answer`.
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

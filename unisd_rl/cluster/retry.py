"""Trying again after a failure: the back-off, how often a component may be restarted, how long a call keeps asking.

Whoever tries again reports a `Failure` before and a `Recovery` after it: on the console, and in `events.jsonl`.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from unisd_rl.config.run import FaultsConfig
from unisd_rl.errors import RunFailed
from unisd_rl.types import Failure, Recovery, Report

Result = TypeVar("Result")
Clock = Callable[[], float]
Retryable = tuple[type[Exception], ...]


class RestartPolicy:
    """How often, and after which back-off, one component of a run is started again. `clock` returns seconds."""

    def __init__(self, component: str, faults: FaultsConfig, clock: Clock = time.monotonic) -> None:
        self._component, self._faults, self._clock = component, faults, clock
        self._failures_s: deque[float] = deque()
        self._furthest, self._without_progress = -1, 0

    def record_failure(self, reason: str, progress: int | None = None) -> Failure:
        """Count a failure: the wait before the next start doubles with each within `faults.window_s`.

        `progress`: how many steps the component has taken at most. One that takes long to fail leaves the window before
        it is full, so those without a further step are counted however old they are.

        Raises:
            RunFailed: that was one more than `faults.max_restarts`.
        """
        faults, now_s = self._faults, self._clock()
        if progress is not None:
            self._check_progress(reason, progress)
        while self._failures_s and self._failures_s[0] <= now_s - faults.window_s:
            self._failures_s.popleft()
        self._failures_s.append(now_s)
        count = len(self._failures_s)
        if count > faults.max_restarts:
            raise RunFailed(
                f"{self._component} failed {count} times within {faults.window_s:g} s (faults.max_restarts = "
                f"{faults.max_restarts}); the last time: {reason}"
            )
        wait_s = min(faults.backoff_s * 2.0 ** min(count - 1, 64), faults.backoff_max_s)
        return Failure(self._component, reason, count, wait_s)

    def recover(
        self,
        error: Exception,
        restart: Callable[[], Result],
        retryable: Retryable,
        report: Report,
        pause: Callable[[float], None],
        progress: int | None = None,
    ) -> Result:
        """What `restart` returns, called after a back-off (`pause`, seconds) until it raises none of `retryable`.

        `error` is the failure that it recovers from. Every failure, and in the end the recovery, is reported.

        Raises:
            RunFailed: it failed more often than `faults.max_restarts`.
        """
        broke_s = self._clock()
        while True:
            failure = self.record_failure(str(error), progress)
            report(failure)
            pause(failure.wait_s)
            try:
                result = restart()
            except retryable as again:
                error = again
            else:
                report(Recovery(self._component, self._clock() - broke_s))
                return result

    def _check_progress(self, reason: str, progress: int) -> None:
        self._without_progress = 1 if progress > self._furthest else self._without_progress + 1
        self._furthest = max(self._furthest, progress)
        if self._without_progress > self._faults.max_restarts:
            raise RunFailed(
                f"{self._component} failed {self._without_progress} times and never got beyond step {self._furthest} "
                f"(faults.max_restarts = {self._faults.max_restarts}); the last time: {reason}"
            )


class Patience:
    """How long a call keeps asking a process that is away: `faults.patience_s` from the first failure on.

    `awaited` completes the sentence `waited 300 s for ...`, e.g. `the rollout queue to store rollouts`.
    """

    def __init__(
        self, awaited: str, faults: FaultsConfig, first_wait_s: float | None = None, clock: Clock = time.monotonic
    ) -> None:
        self._awaited, self._faults, self._clock = awaited, faults, clock
        self._next_wait_s = faults.backoff_s if first_wait_s is None else first_wait_s
        self._deadline_s: float | None = None

    def wait_s(self, error: Exception) -> float:
        """The back-off before the next try, after one that failed with `error`; doubled from call to call.

        Raises:
            RunFailed: the patience would end before that try.
        """
        now_s, wait_s, limit_s = self._clock(), self._next_wait_s, self._faults.patience_s
        if self._deadline_s is None:
            self._deadline_s = now_s + limit_s
        if now_s + wait_s > self._deadline_s:
            reason = (str(error) or type(error).__name__).splitlines()[-1]  # Ray puts a remote traceback before it
            raise RunFailed(
                f"waited faults.patience_s = {limit_s:g} s for {self._awaited}; the last time: {reason}"
            ) from error
        self._next_wait_s = min(2.0 * wait_s, self._faults.backoff_max_s)
        return wait_s


async def retry(
    call: Callable[[], Awaitable[Result]], retryable: Retryable, faults: FaultsConfig, awaited: str
) -> Result:
    """What `call` returns, once it does not raise one of `retryable`. A call must be safe to repeat.

    Raises:
        RunFailed: `faults.patience_s` seconds after the first failure; see `Patience`.
    """
    patience = Patience(awaited, faults)
    while True:
        try:
            return await call()
        except retryable as error:
            wait_s = patience.wait_s(error)
        await asyncio.sleep(wait_s)

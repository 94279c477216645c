"""The limit on the completions that one engine has in flight, and the time in which it had any."""

import asyncio
import time
from collections.abc import Callable

from unisd_rl.types import no_op


class InFlightLimit:
    """At most `limit` completions in flight, and how much of the time any was. For one thread; `clock` returns
    seconds."""

    def __init__(
        self, limit: int, clock: Callable[[], float] = time.monotonic, on_change: Callable[[], None] = no_op
    ) -> None:
        """`on_change` is called when the first of some starts, and when the last of them ended."""
        self._limit, self._clock, self._on_change = limit, clock, on_change
        self._count = 0
        self._began_s = self._busy_since_s = clock()
        self._busy_s = 0.0
        # Not running yet: else a pulse before `start_timing` would have more than the first ones after it.
        self._stopped_s: float | None = self._began_s
        self._released = asyncio.Event()

    @property
    def free(self) -> int:
        """How many more may start; never negative, although the last unit or a late lease may exceed the limit."""
        return max(0, self._limit - self._count)

    @property
    def busy(self) -> bool:
        """Whether any is in flight."""
        return self._count > 0

    @property
    def served_s(self) -> float:
        """Seconds since `start_timing`, without those between `stop_timing` and `resume_timing`."""
        now_s = self._clock() if self._stopped_s is None else self._stopped_s
        return now_s - self._began_s

    @property
    def busy_s(self) -> float:
        """Seconds since `start_timing` with at least one in flight."""
        return self._busy_s + (self._clock() - self._busy_since_s if self._count else 0.0)

    def start_timing(self) -> None:
        """The time to be measured starts now."""
        self._began_s = self._busy_since_s = self._clock()
        self._busy_s, self._stopped_s = 0.0, None

    def stop_timing(self) -> None:
        """Nothing is in flight, and nothing will be before `resume_timing`: the time between is neither."""
        self._stopped_s = self._clock()

    def resume_timing(self) -> None:
        """Count again; nothing, where it was not stopped."""
        if self._stopped_s is not None:
            self._began_s += self._clock() - self._stopped_s
            self._stopped_s = None

    def acquire(self, count: int = 1) -> None:
        """So many start."""
        first = self._count == 0
        if first:
            self._busy_since_s = self._clock()
        self._count += count
        if first:
            self._on_change()

    def release(self, count: int = 1) -> None:
        """So many ended."""
        self._count -= count
        if count and self._count == 0:
            self._busy_s += self._clock() - self._busy_since_s
            self._on_change()
        self._released.set()

    async def wait_until_free(self) -> None:
        """Return when another may start."""
        while not self.free:
            self._released.clear()
            await self._released.wait()

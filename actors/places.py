"""The places of an actor: how many prompts are in flight, and how much of the time any was."""

import asyncio
import time
from collections.abc import Callable


class Places:
    """`limit` prompts at most. Not for more than one thread."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._clock = limit, clock
        self._taken = 0
        self._began_s = self._busy_since_s = clock()
        self._busy_s = 0.0
        self._given_up = asyncio.Event()

    @property
    def free(self) -> int:
        """Places left; never negative, although a late lease may take more than the limit for a moment."""
        return max(0, self._limit - self._taken)

    @property
    def served_s(self) -> float:
        """Seconds since `begin`."""
        return self._clock() - self._began_s

    @property
    def busy_s(self) -> float:
        """Seconds since `begin` with at least one prompt in flight."""
        return self._busy_s + (self._clock() - self._busy_since_s if self._taken else 0.0)

    @property
    def busy_fraction(self) -> float:
        """Share of the time since `begin`, 0 to 1, with at least one prompt in flight."""
        return self.busy_s / max(self.served_s, 1e-9)

    def begin(self) -> None:
        """The time to be measured starts now."""
        self._began_s = self._busy_since_s = self._clock()
        self._busy_s = 0.0

    def take(self) -> None:
        """A prompt starts."""
        if self._taken == 0:
            self._busy_since_s = self._clock()
        self._taken += 1

    def give_up(self) -> None:
        """A prompt ended."""
        self._taken -= 1
        if self._taken == 0:
            self._busy_s += self._clock() - self._busy_since_s
        self._given_up.set()

    async def wait_for_one(self) -> None:
        """Return when there is a free place."""
        while not self.free:
            self._given_up.clear()
            await self._given_up.wait()

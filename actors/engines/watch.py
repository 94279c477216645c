"""Notices when an engine is stuck: prompts in flight, no update under way, and no token for `faults.stall_s`.

A deadlocked engine raises nothing and its process goes on answering calls, so nobody else would ever notice.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from actors.engines.engine import EngineDied, PauseReport, RolloutEngine
from unisd_rl.transport.weights.manifest import Bytes, SnapshotManifest
from unisd_rl.types import Generation, PolicyVersion, Sampling, Tokens

_LOOKS = 8  # in each `stall_s`


class Progress:
    """The rule: `stuck` is asked now and then, with how many prompts are in flight, how many tokens have been made in
    all, and whether the engine is paused. `clock` returns seconds."""

    def __init__(self, stall_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stall_s, self._clock = stall_s, clock
        self._tokens = 0
        self._moved_s = self._looked_s = clock()

    def stuck(self, in_flight: int, tokens: int, paused: bool) -> bool:
        """Whether nothing has moved for `stall_s`. After a long time without a look (the process was stopped, or its
        machine was) that time does not count."""
        now = self._clock()
        away, self._looked_s = now - self._looked_s > self._stall_s / 2, now
        if paused or away or not in_flight or tokens != self._tokens:
            self._tokens, self._moved_s = tokens, now
        return now - self._moved_s >= self._stall_s


class WatchedEngine:
    """`RolloutEngine` around another one: every call in flight raises EngineDied once that one is stuck."""

    def __init__(self, engine: RolloutEngine, stall_s: float) -> None:
        self._engine, self._stall_s = engine, stall_s
        self._in_flight = 0
        self._stuck = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    @property
    def version(self) -> PolicyVersion:
        """See `RolloutEngine.version`."""
        return self._engine.version

    @property
    def tokens(self) -> int:
        """See `RolloutEngine.tokens`."""
        return self._engine.tokens

    @property
    def paused(self) -> bool:
        """See `RolloutEngine.paused`."""
        return self._engine.paused

    async def start(self) -> None:
        """See `RolloutEngine.start`; watches from then on."""
        await self._engine.start()
        self._watching = asyncio.create_task(self._watch())

    async def generate(self, tokens: Tokens, sampling: Sampling) -> Generation:
        """See `RolloutEngine.generate`."""
        answer = asyncio.create_task(self._engine.generate(tokens, sampling))
        stuck = asyncio.create_task(self._stuck.wait())
        self._in_flight += 1
        try:
            await asyncio.wait({answer, stuck}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise EngineDied(
                    f"the engine made no token for faults.stall_s = {self._stall_s:g} s with {self._in_flight} prompts "
                    "in flight"
                )
            return answer.result()
        finally:
            self._in_flight -= 1
            answer.cancel()
            stuck.cancel()

    async def receive(self, manifest: SnapshotManifest, buckets: Sequence[Bytes]) -> PauseReport:
        """See `RolloutEngine.receive`."""
        return await self._engine.receive(manifest, buckets)

    async def close(self) -> None:
        """See `RolloutEngine.close`."""
        if self._watching is not None:
            self._watching.cancel()
        await self._engine.close()

    async def _watch(self) -> None:
        progress = Progress(self._stall_s)
        while not progress.stuck(self._in_flight, self._engine.tokens, self._engine.paused):
            await asyncio.sleep(self._stall_s / _LOOKS)
        self._stuck.set()

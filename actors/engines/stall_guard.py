"""A guard around an engine that may get stuck: no token with prompts in flight, or one pause, for `faults.stall_s`.

A deadlocked engine raises nothing and its process goes on answering calls, so nobody else would ever notice.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from typing_extensions import override

from actors.engines.engine import EngineDied, PauseReport, RolloutEngine
from unisd_rl.transport.weights.manifest import Bytes, SnapshotManifest
from unisd_rl.types import Generation, PolicyVersion, Sampling, Tokens

_LOOKS = 8  # in each `stall_s`

Answer = TypeVar("Answer")


class Progress:
    """The rule: `stuck` is asked now and then, with how many prompts are in flight, how many tokens have been made in
    all, and whether the engine is paused. `clock` returns seconds."""

    def __init__(self, stall_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stall_s, self._clock = stall_s, clock
        self._seen = (0, False)
        self._moved_s = self._looked_s = clock()

    def stuck(self, in_flight: int, tokens: int, paused: bool) -> bool:
        """Whether nothing has moved for `stall_s`: a token does, and a pause that begins or ends. After a long time
        without a look (the process was stopped, or its machine was) that time does not count."""
        now, seen, idle = self._clock(), (tokens, paused), not (in_flight or paused)
        away, self._looked_s = now - self._looked_s > self._stall_s / 2, now
        if idle or away or seen != self._seen:
            self._seen, self._moved_s = seen, now
        return now - self._moved_s >= self._stall_s


class StallGuard(RolloutEngine):
    """An engine around another one: every call in flight raises EngineDied once that one is stuck."""

    def __init__(self, engine: RolloutEngine, stall_s: float) -> None:
        self._engine, self._stall_s = engine, stall_s
        self._in_flight = 0
        self._stuck = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    @property
    @override
    def version(self) -> PolicyVersion:
        return self._engine.version

    @property
    @override
    def tokens(self) -> int:
        return self._engine.tokens

    @property
    @override
    def paused(self) -> bool:
        return self._engine.paused

    @override
    async def start(self) -> None:
        await self._engine.start()
        self._watching = asyncio.create_task(self._watch())

    @override
    async def generate(self, tokens: Tokens, sampling: Sampling) -> Generation:
        self._in_flight += 1
        try:
            return await self._unless_stuck(self._engine.generate(tokens, sampling))
        finally:
            self._in_flight -= 1

    @override
    async def receive(self, manifest: SnapshotManifest, buckets: Sequence[Bytes]) -> PauseReport:
        return await self._unless_stuck(self._engine.receive(manifest, buckets))

    @override
    async def sleep(self) -> None:
        await self._engine.sleep()

    @override
    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        await self._engine.close()

    async def _unless_stuck(self, call: Coroutine[Any, Any, Answer]) -> Answer:
        answer, stuck = asyncio.create_task(call), asyncio.create_task(self._stuck.wait())
        try:
            await asyncio.wait({answer, stuck}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                idle = f"made no token with {self._in_flight} prompts in flight"
                state = "stayed paused for new weights" if self._engine.paused else idle
                raise EngineDied(f"the engine {state} for faults.stall_s = {self._stall_s:g} s")
            return answer.result()
        finally:
            answer.cancel()
            stuck.cancel()

    async def _watch(self) -> None:
        progress = Progress(self._stall_s)
        while not progress.stuck(self._in_flight, self._engine.tokens, self._engine.paused):
            await asyncio.sleep(self._stall_s / _LOOKS)
        self._stuck.set()

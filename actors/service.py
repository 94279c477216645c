"""The loop inside a rollout actor: lease, answer (`answering.py`), commit.

```
queue --lease--> prompt --> answer ---> finished --commit (whole units)--> queue
        ^                      |
        +---- a free place among `concurrency`, or newer weights (more prompts may start)
```

It ends in one of three ways: cancelled, which gives back what is held; drained, after what is held is committed; or
by a failure of engine or queue.

The places of an actor: how many prompts are in flight, and how much of the time any was.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from actors.engines.engine import NO_WEIGHTS, PromptFailed, RolloutEngine
from actors.generate import RolloutGenerator
from unisd_rl.config.rollout import RolloutConfig
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.transport.rollouts.actor_client import LeaseQueue
from unisd_rl.transport.rollouts.schema import encode
from unisd_rl.types import NumberedPrompt, Rollout


class InFlightLimit:
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

    def acquire(self) -> None:
        """A prompt starts."""
        if self._taken == 0:
            self._busy_since_s = self._clock()
        self._taken += 1

    def release(self) -> None:
        """A prompt ended."""
        self._taken -= 1
        if self._taken == 0:
            self._busy_s += self._clock() - self._busy_since_s
        self._given_up.set()

    async def wait_until_free(self) -> None:
        """Return when there is a free place."""
        while not self.free:
            self._given_up.clear()
            await self._given_up.wait()


_LEASE_WAIT_S = 10.0  # how long the queue may hold a call that it cannot serve yet
_GROUP_S = 0.03  # rollouts that finish within this time are committed together, unless none is left in flight


@dataclass(slots=True)
class ServiceCounts:
    """What happened since the service began: committed tokens and rollouts, prompts given back."""

    tokens: int = 0
    rollouts: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class _LeaseCall:
    """One call for prompts, and the lineage of the weights it was for."""

    lineage: int
    answer: "asyncio.Task[list[NumberedPrompt]]"


class RolloutService:
    """Serves one queue with one engine; `serve` runs until it is cancelled."""

    def __init__(
        self, name: str, config: RolloutConfig, engine: RolloutEngine, tokenizer: ChatTokenizer, queue: LeaseQueue
    ) -> None:
        self._name, self._config, self._engine, self._queue = name, config, engine, queue
        self._generator = RolloutGenerator(name, config, engine, tokenizer)
        self.usage = InFlightLimit(config.concurrency)
        self._open = asyncio.Event()
        self._open.set()
        self._changed = asyncio.Event()
        self._draining = False
        self._lineage = 0
        self._in_flight: dict[int, asyncio.Task[None]] = {}
        self._partial: dict[int, list[Rollout]] = {}  # by unit, of which others are being generated
        self._finished: list[Rollout] = []
        self._committing: list[Rollout] = []
        self._none_in_flight = asyncio.Event()
        self._some_ended = asyncio.Event()
        self._some_finished = asyncio.Event()
        self.counts = ServiceCounts()

    @property
    def held(self) -> tuple[int, ...]:
        """Numbers of the prompts that are leased and not committed."""
        rollouts = (*self._finished, *self._committing, *(one for unit in self._partial.values() for one in unit))
        return (*self._in_flight, *(rollout.number for rollout in rollouts))

    def pause(self) -> None:
        """Lease and start nothing from now on; what is in flight goes on."""
        self._open.clear()
        self._wake_lease_call()

    def resume(self) -> None:
        """Lease again."""
        self._open.set()

    def weights_changed(self) -> None:
        """The engine has newer weights: a lease that waits asks again, since more prompts may start."""
        self._wake_lease_call()

    def drain(self) -> None:
        """Lease nothing from now on; `serve` returns when what is held is committed."""
        self._draining = True
        self._wake_lease_call()

    async def abandon(self, lineage: int) -> None:
        """Give everything in flight back, and lease nothing until the engine is of `lineage`: no completion may have
        tokens of two lineages."""
        self._lineage = lineage
        abandoned = tuple(self._in_flight.values())
        self._partial.clear()
        for task in abandoned:
            task.cancel()
        if abandoned:
            await asyncio.wait(abandoned)
            await self._queue.release(self._name)

    async def serve(self) -> None:
        """Work until cancelled or drained; what is then still held is given back.

        Raises:
            ExceptionGroup: with `EngineDied`, or what the queue's end raised.
        """
        self.usage.begin()
        try:
            async with asyncio.TaskGroup() as tasks:
                background = (tasks.create_task(self._renew_leases()), tasks.create_task(self._commit_finished()))
                await self._lease_prompts(tasks)
                while self.held:
                    await self._some_ended.wait()
                    self._some_ended.clear()
                for task in background:
                    task.cancel()
        finally:
            await self._queue.release(self._name)

    def _wake_lease_call(self) -> None:
        """A lease call that waits asks anew, as things are now."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _lease_prompts(self, tasks: asyncio.TaskGroup) -> None:
        while not self._draining:
            await self._open.wait()
            await self.usage.wait_until_free()
            if self._engine.version == NO_WEIGHTS or self._engine.version.lineage < self._lineage:
                await self._changed.wait()
                continue
            for prompt in await self._lease(self.usage.free):
                if prompt.number not in self.held:  # else our first lease has run out, and we have it again
                    self._begin(prompt, tasks)

    async def _lease(self, wanted: int) -> list[NumberedPrompt]:
        """Ask for prompts, and ask again whenever newer weights arrive: the queue ends the earlier call then.

        A paused or drained actor asks for none, only to end the earlier call; what that one was given, it does. What
        was leased in an older lineage is not started: the queue has let others have it.
        """
        calls = [self._ask(wanted)]
        try:
            while not calls[-1].answer.done():
                changed = asyncio.create_task(self._changed.wait())
                try:
                    await asyncio.wait({calls[-1].answer, changed}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
                if not calls[-1].answer.done():
                    calls.append(self._ask(wanted))
            answers = [(call.lineage, await call.answer) for call in calls]
            return [prompt for lineage, prompts in answers if lineage >= self._lineage for prompt in prompts]
        finally:
            for call in calls:
                call.answer.cancel()

    def _ask(self, wanted: int) -> _LeaseCall:
        version = self._engine.version
        wanted, wait_s = (wanted, _LEASE_WAIT_S) if self._open.is_set() and not self._draining else (0, 0.0)
        lease = self._queue.lease(self._name, version, wanted, wait_s)
        return _LeaseCall(version.lineage, asyncio.create_task(lease))

    def _begin(self, prompt: NumberedPrompt, tasks: asyncio.TaskGroup) -> None:
        self.usage.acquire()
        self._none_in_flight.clear()
        self._in_flight[prompt.number] = task = tasks.create_task(self._answer(prompt))
        task.add_done_callback(lambda _: self._ended(prompt.number))  # also for one cancelled before it began

    def _ended(self, number: int) -> None:
        self.usage.release()
        del self._in_flight[number]
        self._some_ended.set()
        unit = self._unit(number)
        if not any(self._unit(other) == unit for other in self._in_flight) and unit in self._partial:
            self._finished += self._partial.pop(unit)
            self._some_finished.set()
        if not self._in_flight:
            self._none_in_flight.set()

    def _drop_unit(self, number: int) -> None:
        """A unit is committed whole or not at all: what else there is of it would be for nothing."""
        unit = self._unit(number)
        self._partial.pop(unit, None)
        for other, task in self._in_flight.items():
            if self._unit(other) == unit and other != number:
                task.cancel()

    def _unit(self, number: int) -> int:
        return number // self._config.lease_unit

    async def _answer(self, numbered: NumberedPrompt) -> None:
        await self._open.wait()
        try:
            rollout = await self._generator.answer(numbered)
        except PromptFailed as error:
            self.counts.failed += 1
            self._drop_unit(numbered.number)
            await self._queue.fail(self._name, numbered.number, str(error))
        else:
            self._partial.setdefault(self._unit(rollout.number), []).append(rollout)

    async def _commit_finished(self) -> None:
        while True:
            await self._some_finished.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._none_in_flight.wait(), _GROUP_S)
            self._some_finished.clear()
            self._committing, self._finished = self._finished, []
            await self._queue.commit(self._name, encode(self._committing))
            self.counts.rollouts += len(self._committing)
            self.counts.tokens += sum(len(rollout.completion_tokens) for rollout in self._committing)
            self._committing = []
            self._some_ended.set()

    async def _renew_leases(self) -> None:
        while True:
            await asyncio.sleep(self._config.lease_s / 3)
            await self._queue.renew(self._name, self.held)

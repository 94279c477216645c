"""The loop inside a rollout actor: lease units of prompts, generate their rollouts, commit them.

```
queue --lease--> unit --> rollouts --> finished --commit--> queue --the next units, in its answer--> unit ...
        ^                    |
        +---- room among `concurrency` that no commit has filled
        +---- newer weights: staleness slots are free
```

A unit (`rollout.unit_size`: the answers to one prompt, or to several) has one task, which ends when all of its
completions have; its rollouts are committed together, or none is. A commit takes what finishes within a window and
asks for what comes next, so that the queue is called once a window and not twice a rollout: see `commit_window.py`.

Who frees a staleness slot: `weights_changed`, when the engine has applied a version v. The lease call that waits at the
queue ends, and the next one carries v, on which `transport.rollouts.admission.may_start` lets the prompts below
(v + max_staleness + 1) B start.

Between two batches it may sleep: it leases nothing, and what was held is committed before. A step of the learner may
take longer than a lease.

The loop ends in one of three ways: cancelled, which gives back what is held; drained, after what is held is committed;
or by a failure of engine or queue.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actors.commit_window import CommitWindow
from actors.engines.engine import NO_WEIGHTS, RolloutEngine
from actors.generate import CompletionFailed, RolloutGenerator
from actors.in_flight_limit import InFlightLimit
from unisd_rl.config.rollout import RolloutConfig
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.transport.rollouts.actor_client import LeaseQueue
from unisd_rl.transport.rollouts.dispatch import LeaseRequest
from unisd_rl.transport.rollouts.schema import encode
from unisd_rl.types import NumberedPrompt, Rollout, no_op

_LEASE_WAIT_S = 10.0  # how long the queue may hold a call that it cannot serve yet


@dataclass(slots=True, eq=False)
class _Unit:
    """A unit that is being generated, and how many of its completions have not ended."""

    prompts: Sequence[NumberedPrompt]
    unanswered: int
    task: "asyncio.Task[None] | None" = None


@dataclass(frozen=True, slots=True)
class _LeaseCall:
    """One call for prompts, and the lineage of the weights it was for."""

    lineage: int
    prompts: "asyncio.Task[list[NumberedPrompt]]"


class RolloutService:
    """Serves one queue with one engine."""

    def __init__(
        self,
        name: str,
        config: RolloutConfig,
        engine: RolloutEngine,
        tokenizer: ChatTokenizer,
        queue: LeaseQueue,
        on_change: Callable[[], None] = no_op,
    ) -> None:
        """`on_change`: see `InFlightLimit`."""
        self._name, self._config, self._engine, self._queue = name, config, engine, queue
        self._generator = RolloutGenerator(name, config, engine, tokenizer)
        self.usage = InFlightLimit(config.concurrency, on_change=on_change)
        self._leasing, self._starting = asyncio.Event(), asyncio.Event()  # set: prompts may be leased; may start
        self._leasing.set()
        self._starting.set()
        self._asking = False
        self._changed = asyncio.Event()
        self._draining = False
        self._lineage = 0
        self._in_flight: dict[int, _Unit] = {}
        self._window = CommitWindow()
        self._finished: list[Rollout] = []
        self._committing: list[Rollout] = []
        self._none_in_flight = asyncio.Event()
        self._some_ended = asyncio.Event()
        self._some_finished = asyncio.Event()
        self._all_committed = asyncio.Event()
        self._all_committed.set()
        self.committed = 0
        """Rollouts."""

    @property
    def held(self) -> tuple[int, ...]:
        """Numbers of the prompts that are leased and not committed."""
        generated = (prompt.number for unit in self._in_flight.values() for prompt in unit.prompts)
        return (*generated, *(rollout.number for rollout in (*self._finished, *self._committing)))

    def pause(self) -> None:
        """Lease and start nothing from now on; what is in flight goes on."""
        self._leasing.clear()
        self._starting.clear()
        self._wake_lease_call()

    async def sleep(self) -> None:
        """Lease nothing from now on; returns once all that is held is committed. Until `resume` no time counts as
        served."""
        self._leasing.clear()  # `_starting` stays: what a lease call is just being given has to be done
        self._wake_lease_call()
        while self._asking or self.held:
            await self._some_ended.wait()
            self._some_ended.clear()
        self.usage.stop_timing()

    def resume(self) -> None:
        """Lease again."""
        self.usage.resume_timing()
        self._leasing.set()
        self._starting.set()

    def weights_changed(self) -> None:
        """The engine has newer weights, which frees staleness slots: a lease call that waits asks again with them."""
        self._wake_lease_call()

    def drain(self) -> None:
        """Lease nothing from now on; `serve` returns when what is held is committed."""
        self._draining = True
        self._wake_lease_call()

    async def abandon(self, lineage: int) -> None:
        """Give everything in flight back, and lease nothing until the engine is of `lineage`: no completion may have
        tokens of two lineages."""
        self._lineage = lineage
        abandoned = tuple(unit.task for unit in self._in_flight.values() if unit.task is not None)
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
        self.usage.start_timing()
        try:
            async with asyncio.TaskGroup() as tasks:
                background = (tasks.create_task(self._renew_leases()), tasks.create_task(self._commit_finished(tasks)))
                await self._lease_prompts(tasks)
                while self.held:
                    await self._some_ended.wait()
                    self._some_ended.clear()
                for task in background:
                    task.cancel()
        finally:
            await self._queue.release(self._name)

    def _wake_lease_call(self) -> None:
        """Let a lease call that waits at the queue end; the next one asks as things are now."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _lease_prompts(self, tasks: asyncio.TaskGroup) -> None:
        while not self._draining:
            await self._leasing.wait()
            await self.usage.wait_until_free()
            if self._in_flight:  # what finishes meanwhile asks for the next prompts with its commit
                await asyncio.sleep(self._window.seconds)
            await self._all_committed.wait()
            if self._draining or not self._leasing.is_set() or not self.usage.free:
                continue
            if self._engine.version == NO_WEIGHTS or self._engine.version.lineage < self._lineage:
                await self._changed.wait()
                continue
            self._asking = True
            self._begin_leased(await self._lease(self.usage.free), tasks)
            self._asking = False
            self._some_ended.set()

    def _begin_leased(self, prompts: Sequence[NumberedPrompt], tasks: asyncio.TaskGroup) -> None:
        held = set(map(self._unit_of, self.held))
        for index, unit in self._by_unit(prompts).items():
            if index not in held:  # else our first lease has run out, and we have it again
                self._begin(index, unit, tasks)

    async def _lease(self, wanted: int) -> list[NumberedPrompt]:
        """Ask for prompts, and ask again whenever newer weights arrive: the queue ends the earlier call then.

        A paused or drained actor asks for none, only to end the earlier call; what that one was given, it does. What
        was leased in an older lineage is not started: the queue has let others have it.
        """
        calls = [self._ask(wanted)]
        try:
            while not calls[-1].prompts.done():
                changed = asyncio.create_task(self._changed.wait())
                try:
                    await asyncio.wait({calls[-1].prompts, changed}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
                if not calls[-1].prompts.done():
                    calls.append(self._ask(wanted))
            leased = [(call.lineage, await call.prompts) for call in calls]
            return [prompt for lineage, prompts in leased if lineage >= self._lineage for prompt in prompts]
        finally:
            for call in calls:
                call.prompts.cancel()

    def _ask(self, wanted: int) -> _LeaseCall:
        version = self._engine.version
        wanted, wait_s = (wanted, _LEASE_WAIT_S) if self._leasing.is_set() and not self._draining else (0, 0.0)
        lease = self._queue.lease(self._name, version, wanted, wait_s)
        return _LeaseCall(version.lineage, asyncio.create_task(lease))

    def _begin(self, index: int, prompts: Sequence[NumberedPrompt], tasks: asyncio.TaskGroup) -> None:
        unit = self._in_flight[index] = _Unit(prompts, len(prompts))
        self.usage.acquire(len(prompts))
        self._none_in_flight.clear()
        unit.task = tasks.create_task(self._generate(unit))
        unit.task.add_done_callback(lambda _: self._ended(index))  # also for one cancelled before it began

    def _ended(self, index: int) -> None:
        self.usage.release(self._in_flight.pop(index).unanswered)
        self._some_ended.set()
        if not self._in_flight:
            self._none_in_flight.set()

    def _unit_of(self, number: int) -> int:
        return number // self._config.unit_size

    def _by_unit(self, leased: Sequence[NumberedPrompt]) -> dict[int, list[NumberedPrompt]]:
        """Each number once: a queue that was started again may give to a second call what it gave to the first."""
        units: dict[int, list[NumberedPrompt]] = {}
        for prompt in {prompt.number: prompt for prompt in leased}.values():
            units.setdefault(self._unit_of(prompt.number), []).append(prompt)
        return units

    async def _generate(self, unit: _Unit) -> None:
        def answered() -> None:
            unit.unanswered -= 1
            self.usage.release()

        await self._starting.wait()
        began_s = time.monotonic()
        try:
            rollouts = await self._generator.generate(unit.prompts, answered)
        except CompletionFailed as failure:
            await self._queue.fail(self._name, failure.number, str(failure))
        else:
            self._window.count(time.monotonic() - began_s)
            self._finished += rollouts
            self._some_finished.set()
            self._all_committed.clear()

    async def _commit_finished(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            await self._some_finished.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._none_in_flight.wait(), self._window.seconds)
            self._some_finished.clear()
            self._committing, self._finished = self._finished, []
            request = self._request()
            answer = await self._queue.commit(self._name, encode(self._committing), request)
            self.committed += len(self._committing)
            self._committing = []
            self._window.learner_waits = answer.learner_waits
            if request is not None and request.applied.lineage >= self._lineage:
                self._begin_leased(answer.prompts, tasks)
            if not self._finished:
                self._all_committed.set()
            self._some_ended.set()

    def _request(self) -> LeaseRequest | None:
        """What to ask for beside a commit; nothing where a lease call waits, or no prompt may be leased."""
        version, free = self._engine.version, self.usage.free
        may_lease = self._leasing.is_set() and not self._draining and not self._asking and free
        current = version != NO_WEIGHTS and version.lineage >= self._lineage
        return LeaseRequest(version, free) if may_lease and current else None

    async def _renew_leases(self) -> None:
        while True:
            await asyncio.sleep(self._config.lease_s / 3)
            await self._queue.renew(self._name, self.held)

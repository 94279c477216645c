"""The actors' end of the rollout wire: five calls on the queue, and the retirement of actors that left."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from typing_extensions import override

from unisd_rl.cluster.processes import Call, Handle, Unreachable
from unisd_rl.cluster.retry import retry
from unisd_rl.cluster.runtime import runtime
from unisd_rl.cluster.waiting import done, fetch
from unisd_rl.config.run import FaultsConfig
from unisd_rl.transport.rollouts.dispatch import CommitAnswer, LeaseRequest
from unisd_rl.transport.rollouts.wire import pack_request, unpack_answer
from unisd_rl.types import NumberedPrompt, PolicyVersion

_RELEASE_S = 10.0
Result = TypeVar("Result")


class LeaseQueue(Protocol):
    """What `unisd_rl.transport.rollouts.queue.RolloutQueue` offers to rollout actors."""

    async def lease(self, actor: str, applied: PolicyVersion, wanted: int, timeout_s: float) -> list[NumberedPrompt]:
        """Up to `wanted` prompts that may start on weights `applied`; empty after `timeout_s` or a later call."""

    async def renew(self, actor: str, numbers: Sequence[int]) -> None:
        """The actor lives, and holds these prompts."""

    async def commit(self, actor: str, data: bytes, request: LeaseRequest | None) -> CommitAnswer:
        """Completed rollouts, as Arrow IPC bytes, on storage when this returns; and the next prompts, as far as there
        are any that may start at once."""

    async def fail(self, actor: str, number: int, reason: str) -> None:
        """An attempt failed."""

    async def release(self, actor: str) -> None:
        """Issue this actor's prompts again."""


class QueueProcess(LeaseQueue):
    """`LeaseQueue` on the queue's process, which may die and be started again: calls wait for it, with back-off.

    A call that was lost on the way back is repeated: the queue refuses a second rollout of a number, and prompts
    leased by a lost answer are in no heartbeat, so their leases run out. A rollout that could not be stored because
    the disk is full stays in memory and is committed again.

    Every method but `release` raises RunFailed when the queue is away for `faults.patience_s`. None instead of a
    handle: the rollout actor serves no queue, and any call is a mistake.
    """

    def __init__(self, handle: Handle | None, faults: FaultsConfig) -> None:
        self._given, self._faults = handle, faults

    @property
    def _handle(self) -> Handle:
        assert self._given is not None, "this actor was started without a queue: it only answers"
        return self._given

    @override
    async def lease(self, actor: str, applied: PolicyVersion, wanted: int, timeout_s: float) -> list[NumberedPrompt]:
        return await self._ask("lease prompts", lambda: self._handle.lease.remote(actor, applied, wanted, timeout_s))

    @override
    async def renew(self, actor: str, numbers: Sequence[int]) -> None:
        await self._ask("renew leases", lambda: self._handle.renew.remote(actor, numbers))

    @override
    async def commit(self, actor: str, data: bytes, request: LeaseRequest | None) -> CommitAnswer:
        packed, rows = pack_request(actor, request), bytes(data)  # a Buffer, which `encode` makes, Ray would pickle
        answer = await self._ask("store rollouts", lambda: self._handle.commit_packed.remote(packed, rows), (OSError,))
        return unpack_answer(answer)

    @override
    async def fail(self, actor: str, number: int, reason: str) -> None:
        await self._ask("take a prompt back", lambda: self._handle.fail.remote(actor, number, reason))

    @override
    async def release(self, actor: str) -> None:
        """Tried once: whoever cannot give back is retired by the driver, or its leases run out."""
        with contextlib.suppress(*runtime().unreachable, TimeoutError):
            async with asyncio.timeout(_RELEASE_S):
                await self._handle.release.remote(actor)

    async def _ask(
        self, what: str, call: Callable[[], Awaitable[Result]], again: tuple[type[Exception], ...] = ()
    ) -> Result:
        again = (*runtime().unreachable, *again)
        return await retry(call, again, self._faults, f"the rollout queue to {what}")


class RetiredActors:
    """Names of actors that are not coming back, until the queue, if there is one, has confirmed each."""

    def __init__(self, queue: Handle | None) -> None:
        self._queue = queue
        self._calls: dict[str, Call[None]] = {}

    def retire(self, name: str) -> None:
        """Tell the queue that `name` needs no prompts any more, and what it held is free; returns at once."""
        if self._queue is not None:
            self._calls[name] = self._queue.retire.remote(name)

    def check(self) -> None:
        """Look at what was answered meanwhile; a queue that was away is told again. Raises what the queue refused a
        retirement with."""
        for name, call in tuple(self._calls.items()):
            if not done(call):
                continue
            try:
                fetch(call)
                del self._calls[name]
            except Unreachable:
                self.retire(name)

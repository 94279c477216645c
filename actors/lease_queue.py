"""The rollout queue as an actor sees it: five calls, on the queue's Ray actor or on the queue itself."""

from typing import Protocol

from ray.actor import ActorHandle

from unisd_rl.types import NumberedPrompt, PolicyVersion


class LeaseQueue(Protocol):
    """What `unisd_rl.transport.rollouts.queue.RolloutQueue` offers to rollout actors."""

    async def lease(self, actor: str, applied: PolicyVersion, wanted: int, timeout_s: float) -> list[NumberedPrompt]:
        """Up to `wanted` prompts that may start on weights `applied`; empty after `timeout_s` or a later call."""
        ...

    async def renew(self, actor: str) -> None:
        """The actor lives."""
        ...

    async def commit(self, actor: str, data: bytes) -> None:
        """Completed rollouts, as Arrow IPC bytes; on storage when this returns."""
        ...

    async def fail(self, actor: str, number: int, reason: str) -> None:
        """An attempt failed."""
        ...

    async def release(self, actor: str) -> None:
        """Issue this actor's prompts again."""
        ...


class RayLeaseQueue:
    """`LeaseQueue` on the queue's Ray actor. None: the rollout actor serves no queue, and any call is a mistake."""

    def __init__(self, handle: ActorHandle | None) -> None:
        self._given = handle

    @property
    def _handle(self) -> ActorHandle:
        assert self._given is not None, "this actor was started without a queue: it only answers"
        return self._given

    async def lease(self, actor: str, applied: PolicyVersion, wanted: int, timeout_s: float) -> list[NumberedPrompt]:
        """See `LeaseQueue`."""
        return await self._handle.lease.remote(actor, applied, wanted, timeout_s)

    async def renew(self, actor: str) -> None:
        """See `LeaseQueue`."""
        await self._handle.renew.remote(actor)

    async def commit(self, actor: str, data: bytes) -> None:
        """See `LeaseQueue`."""
        await self._handle.commit.remote(actor, data)

    async def fail(self, actor: str, number: int, reason: str) -> None:
        """See `LeaseQueue`."""
        await self._handle.fail.remote(actor, number, reason)

    async def release(self, actor: str) -> None:
        """See `LeaseQueue`."""
        await self._handle.release.remote(actor)

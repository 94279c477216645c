"""Calls of the queue that wait: for a prompt that may start, or for the last rollouts of a batch.

Each is answered by the event that frees it, and nobody else is woken: a commit looks at the batches that wait (the
learner's one), a prompt that comes to wait looks at one lease call per version of weights.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from itertools import count

from unisd_rl.types import NumberedPrompt, PolicyVersion


class LeaseCall:
    """One actor asks for `wanted` prompts that may start on weights `applied`. Made and answered in one event loop."""

    def __init__(self, actor: str, applied: PolicyVersion, wanted: int) -> None:
        self.actor, self.applied, self.wanted = actor, applied, wanted
        self._answer: asyncio.Future[list[NumberedPrompt]] = asyncio.get_running_loop().create_future()

    def answer(self, prompts: list[NumberedPrompt]) -> None:
        """End the call; the first answer counts."""
        if not self._answer.done():
            self._answer.set_result(prompts)

    async def answered(self, timeout_s: float) -> list[NumberedPrompt]:
        """The answer; nothing after `timeout_s` seconds."""
        timer = asyncio.get_running_loop().call_later(timeout_s, self.answer, [])
        try:
            return await self._answer
        finally:
            timer.cancel()


class LeaseCalls:
    """The lease calls that wait, one an actor."""

    def __init__(self) -> None:
        self._by_actor: dict[str, LeaseCall] = {}
        self._by_version: dict[PolicyVersion, dict[LeaseCall, int]] = {}
        self._arrivals = count()

    def __len__(self) -> int:
        return len(self._by_actor)

    def enter(self, call: LeaseCall) -> None:
        """Let this call wait; it ends an earlier one of the same actor, which has newer weights by now."""
        self.end(call.actor)
        self._by_actor[call.actor] = call
        self._by_version.setdefault(call.applied, {})[call] = next(self._arrivals)

    def leave(self, call: LeaseCall) -> None:
        """This call waits no longer."""
        if self._by_actor.get(call.actor) is call:
            del self._by_actor[call.actor]
        same = self._by_version.get(call.applied, {})
        if same.pop(call, None) is not None and not same:
            del self._by_version[call.applied]

    def end(self, actor: str) -> None:
        """Answer this actor's call with nothing."""
        if call := self._by_actor.get(actor):
            self.leave(call)
            call.answer([])

    def longest_waiting(self, may_start: Callable[[PolicyVersion], bool]) -> LeaseCall | None:
        """Of the calls whose weights will do, the one that came first."""
        able = [next(iter(calls.items())) for applied, calls in self._by_version.items() if may_start(applied)]
        return min(able, key=lambda found: found[1])[0] if able else None


class BatchWaits:
    """Who waits until which prompts are settled."""

    def __init__(self) -> None:
        self._waits: list[tuple[set[int], asyncio.Event]] = []

    async def settled(self, numbers: Iterable[int], timeout_s: float) -> Sequence[int]:
        """Return when these are all settled, or after `timeout_s` seconds; those that are still missing."""
        missing, done = set(numbers), asyncio.Event()
        if missing:
            wait = missing, done
            self._waits.append(wait)
            try:
                async with asyncio.timeout(timeout_s):
                    await done.wait()
            except TimeoutError:
                pass
            finally:
                self._waits.remove(wait)
        return sorted(missing)

    def settle(self, numbers: Sequence[int]) -> None:
        """These are stored or given up: wake those that waited for nothing else."""
        for missing, done in self._waits:
            missing.difference_update(numbers)
            if not missing:
                done.set()

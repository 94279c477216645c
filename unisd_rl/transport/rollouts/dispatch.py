"""Prompts on their way out: which were let in, who waits for them, who holds them.

    admit --> a unit is whole --> it waits --> the lowest one goes to the call that may start it and waited longest

Everything that may free a call ends with `serve`: admission, a lease that comes back or expires, a newer lineage.

Calls of the queue that wait: for a prompt that may start, or for the last rollouts of a batch.

Each is answered by the event that frees it, and nobody else is woken: a commit looks at the batches that wait (the
learner's one), a prompt that comes to wait looks at one lease call per version of weights.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import count

from unisd_rl.transport.rollouts.leases import LeaseBook
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


MayStart = Callable[[NumberedPrompt, PolicyVersion], bool]

_NAMED = 8  # prompt numbers an error message spells out


class Issuing:
    """`may_start` is the admission rule; `known` are numbers settled by an earlier process."""

    def __init__(self, book: LeaseBook, may_start: MayStart, known: Iterable[int]) -> None:
        self.book, self._may_start = book, may_start
        self.admitted = set(known)
        self.issued = set(self.admitted)
        self.leases = self.expired = 0
        self.end = math.inf  # no prompt from this number on will come
        self._retired: set[str] = set()
        self._calls = LeaseCalls()
        self._timer: asyncio.TimerHandle | None = None

    def admit(self, prompts: Iterable[NumberedPrompt]) -> None:
        """Let prompts in that are not known yet; a unit may be leased once it is whole."""
        fresh = [prompt for prompt in prompts if prompt.number not in self.admitted]
        for prompt in fresh:
            self.admitted.add(prompt.number)
            self.book.add(prompt)
        self._open({self.book.unit_of(prompt.number) for prompt in fresh})
        self.serve()

    def end_at(self, end: int) -> None:
        """There are no prompts from number `end` on: the last unit may be short."""
        self.end = end
        self._open({self.book.unit_of(end - 1)} if end else set())
        self.serve()

    def unknown(self, numbers: Iterable[int]) -> list[int]:
        """Those that there are, and that were not admitted."""
        return [number for number in numbers if number < self.end and number not in self.admitted]

    async def lease(self, actor: str, applied: PolicyVersion, wanted: int, timeout_s: float) -> list[NumberedPrompt]:
        """See `RolloutQueue.lease`."""
        call = LeaseCall(actor, applied, wanted)
        if actor not in self._retired:
            self._calls.enter(call)
            self.serve()
        try:
            return await call.answered(timeout_s)
        finally:
            self._calls.leave(call)

    def renew(self, actor: str, numbers: Iterable[int]) -> None:
        """See `RolloutQueue.renew`; these are not settled."""
        self.expire()
        if actor not in self._retired:
            self.book.renew(actor, numbers)
        self.serve()

    def release(self, actor: str) -> None:
        """Let everything this actor holds wait again, and let it wait for nothing."""
        self._calls.end(actor)
        self.book.release(actor)
        self.serve()

    def retire(self, actor: str) -> None:
        """As `release`, and never give this name a prompt again."""
        self._retired.add(actor)
        self.release(actor)

    def retired(self, actor: str) -> bool:
        """Whether this name is retired."""
        return actor in self._retired

    def settle(self, numbers: Iterable[int]) -> None:
        """No actor needs these any more; they were admitted and issued, if perhaps by an earlier process."""
        for number in numbers:
            self.admitted.add(number)
            self.issued.add(number)
            self.book.end(number)

    def serve(self) -> None:
        """Give what waits to the calls that wait, as far as it may start, and look again when a lease may expire."""
        self.expire()
        while first := self.book.first():
            call = self._calls.longest_waiting(lambda applied: all(self._may_start(one, applied) for one in first))
            if call is None:
                break
            self._calls.leave(call)
            call.answer(self._granted(call))
        if self._calls and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.book.until_expiry_s(), self._look_again)

    def expire(self) -> None:
        """Count the leases that ran out, and let their prompts wait again."""
        self.expired += len(self.book.expire())

    def named(self, numbers: Sequence[int]) -> str:
        """Some prompts, and where each is, for a message."""
        named = ", ".join(f"{number} ({self._whereabouts(number)})" for number in numbers[:_NAMED])
        return named + (f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else "")

    def _granted(self, call: LeaseCall) -> list[NumberedPrompt]:
        granted = self.book.grant(call.actor, call.wanted, lambda prompt: self._may_start(prompt, call.applied))
        self.leases += len(granted)
        self.issued.update(prompt.number for prompt in granted)
        return granted

    def _open(self, units: Iterable[int]) -> None:
        """Let those of these units wait that are whole."""
        for unit in sorted(units):
            if not self.unknown(self.book.numbers_of(unit)):
                self.book.open(unit)

    def _look_again(self) -> None:
        self._timer = None
        self.serve()

    def _whereabouts(self, number: int) -> str:
        if number not in self.admitted:
            return "not admitted"
        holder = self.book.holder(number)
        return f"leased to {holder}" if holder else "waiting for an actor that may start it"

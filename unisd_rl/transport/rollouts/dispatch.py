"""The queue's calls that wait, and the dispatcher that answers them.

    admit --> a whole unit is there --> it waits --> the lowest goes to the call that may start it and waited longest

Two kinds of call wait: an actor's `lease`, for a prompt that may start, and the learner's `take`, for the last rollouts
of its batch. Each is answered by the event that frees it, and nobody else is woken: a commit looks at the batches that
wait (the learner's one), a prompt that comes to wait looks at one lease call per version of weights. Everything that
may free a lease call ends with `dispatch`: admission, a lease that comes back or expires, a newer lineage.

A prompt is done once its rollout is stored or it is quarantined.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count

from unisd_rl.transport.rollouts.leases import LeaseBook
from unisd_rl.transport.rollouts.number_set import NumberSet
from unisd_rl.types import NumberedPrompt, PolicyVersion

MayStart = Callable[[NumberedPrompt, PolicyVersion], bool]

_DESCRIBED = 8  # prompt numbers an error message spells out


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """What an actor asks for beside what it commits: up to `wanted` prompts that may start on weights `applied`."""

    applied: PolicyVersion
    wanted: int


@dataclass(frozen=True, slots=True)
class CommitAnswer:
    """The answer to a commit: prompts leased in the same call, and whether the learner waits for rollouts."""

    prompts: list[NumberedPrompt]
    learner_waits: bool


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
        same_version = self._by_version.get(call.applied, {})
        if same_version.pop(call, None) is not None and not same_version:
            del self._by_version[call.applied]

    def end(self, actor: str) -> None:
        """Answer this actor's call with nothing."""
        if call := self._by_actor.get(actor):
            self.leave(call)
            call.answer([])

    def longest_waiting(self, may_start: Callable[[PolicyVersion], bool]) -> LeaseCall | None:
        """Of the calls whose weights will do, the one that came first."""
        firsts = [next(iter(calls.items())) for applied, calls in self._by_version.items() if may_start(applied)]
        return min(firsts, key=lambda item: item[1])[0] if firsts else None


class BatchWaits:
    """The calls that wait until certain prompts are done."""

    def __init__(self) -> None:
        self._waits: list[tuple[set[int], asyncio.Event]] = []

    def __bool__(self) -> bool:
        return bool(self._waits)

    async def wait_until_done(self, numbers: Iterable[int], timeout_s: float) -> Sequence[int]:
        """Return when these are all done, or after `timeout_s` seconds; those that are still missing."""
        missing, complete = set(numbers), asyncio.Event()
        if missing:
            wait = missing, complete
            self._waits.append(wait)
            try:
                async with asyncio.timeout(timeout_s):
                    await complete.wait()
            except TimeoutError:
                pass
            finally:
                self._waits.remove(wait)
        return sorted(missing)

    def mark_done(self, numbers: Sequence[int]) -> None:
        """Wake those that waited for nothing else."""
        for missing, complete in self._waits:
            missing.difference_update(numbers)
            if not missing:
                complete.set()


class Dispatcher:
    """Admitted prompts, and which lease call gets them.

    `may_start` is the admission rule; `done` are the numbers that an earlier process stored or quarantined. `retired`
    are the names of actors that never get a prompt again.
    """

    def __init__(self, book: LeaseBook, may_start: MayStart, done: NumberSet) -> None:
        self.book, self._may_start = book, may_start
        self.admitted, self.issued = NumberSet(), NumberSet()
        self.admitted.update(done)
        self.issued.update(done)
        self.leases = self.expired = 0
        self.retired: set[str] = set()
        self._calls = LeaseCalls()
        self._timer: asyncio.TimerHandle | None = None

    def admit(self, prompts: Iterable[NumberedPrompt]) -> None:
        """Let prompts in that are not known yet; a unit may be leased once all of it is there."""
        new = [prompt for prompt in prompts if prompt.number not in self.admitted]
        for prompt in new:
            self.admitted.add(prompt.number)
            self.book.add(prompt)
        for unit in sorted({self.book.unit_of(prompt.number) for prompt in new}):
            if not self.not_admitted(self.book.numbers_of(unit)):
                self.book.open(unit)
        self.dispatch()

    def not_admitted(self, numbers: Iterable[int]) -> list[int]:
        """Those of these numbers that were never let in."""
        return [number for number in numbers if number not in self.admitted]

    async def lease(self, actor: str, applied: PolicyVersion, wanted: int, timeout_s: float) -> list[NumberedPrompt]:
        """See `RolloutQueue.lease`."""
        call = LeaseCall(actor, applied, wanted)
        if actor not in self.retired:
            self._calls.enter(call)
            self.dispatch()
        try:
            return await call.answered(timeout_s)
        finally:
            self._calls.leave(call)

    def lease_now(self, actor: str, request: LeaseRequest) -> list[NumberedPrompt]:
        """What may start at once, after those that waited before; nothing for a retired actor."""
        self.dispatch()
        return [] if actor in self.retired else self._grant(actor, request.applied, request.wanted)

    def renew(self, actor: str, numbers: Iterable[int]) -> None:
        """See `RolloutQueue.renew`; none of these is done."""
        self.expire()
        if actor not in self.retired:
            self.book.renew(actor, numbers)
        self.dispatch()

    def release(self, actor: str) -> None:
        """Let everything this actor holds wait again, and let it wait for nothing."""
        self._calls.end(actor)
        self.book.release(actor)
        self.dispatch()

    def retire(self, actor: str) -> None:
        """As `release`, and never give this name a prompt again."""
        self.retired.add(actor)
        self.release(actor)

    def mark_done(self, numbers: Iterable[int]) -> None:
        """No actor needs these any more; they were admitted and issued, if perhaps by an earlier process."""
        for number in numbers:
            self.admitted.add(number)
            self.issued.add(number)
            self.book.end(number)

    def dispatch(self) -> None:
        """Give what waits to the calls that wait, as far as it may start; again when a lease may have expired."""
        self.expire()
        while first := self.book.first():
            call = self._calls.longest_waiting(lambda applied: all(self._may_start(p, applied) for p in first))
            if call is None:
                break
            self._calls.leave(call)
            call.answer(self._grant(call.actor, call.applied, call.wanted))
        if self._calls and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.book.until_expiry_s(), self._on_timer)

    def expire(self) -> None:
        """Count the leases that ran out, and let their prompts wait again."""
        self.expired += len(self.book.expire())

    def describe(self, numbers: Sequence[int]) -> str:
        """Some prompts, and the state of each, for a message."""
        described = ", ".join(f"{number} ({self._state_of(number)})" for number in numbers[:_DESCRIBED])
        return described + (f" and {len(numbers) - _DESCRIBED} more" if len(numbers) > _DESCRIBED else "")

    def _grant(self, actor: str, applied: PolicyVersion, wanted: int) -> list[NumberedPrompt]:
        granted = self.book.grant(actor, wanted, lambda prompt: self._may_start(prompt, applied))
        self.leases += len(granted)
        for prompt in granted:
            self.issued.add(prompt.number)
        return granted

    def _on_timer(self) -> None:
        self._timer = None
        self.dispatch()

    def _state_of(self, number: int) -> str:
        if number not in self.admitted:
            return "not admitted"
        holder = self.book.holder(number)
        return f"leased to {holder}" if holder else "waiting for an actor that may start it"

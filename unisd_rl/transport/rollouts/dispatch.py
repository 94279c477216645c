"""Prompts on their way out: which were let in, who waits for them, who holds them.

    admit --> a unit is whole --> it waits --> the lowest one goes to the call that may start it and waited longest

Everything that may free a call ends with `serve`: admission, a lease that comes back or expires, a newer lineage.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence

from unisd_rl.transport.rollouts.leases import LeaseBook
from unisd_rl.transport.rollouts.waiting import LeaseCall, LeaseCalls
from unisd_rl.types import NumberedPrompt, PolicyVersion

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

"""The book of leases: which admitted prompt waits, and which is leased to which actor until when.

    closed --open--> waiting --grant--> leased --begin_commit--> being stored --end--> (forgotten)
                        ^                 |                           |
                        +--- give_back ---+-------- end_commit -------+
                             release, expiry

Prompts are leased in units of `unit_size` U consecutive numbers: unit u is the numbers u*U .. u*U+U-1, those that are
done (stored or quarantined) left out. A unit has one lease, and its prompts wait, are leased and expire together. It is
one group, the answers to one problem (`rollout.answers_per_prompt`), or several where `rollout.lease_unit` says so: in
the reference mode the transformers engine computes whole units, so that the bits of a rollout do not depend on what
else is generated.

Pure bookkeeping without waiting: the queue asks and decides. A lease that is not renewed within `lease_s` has expired
and its unit waits again, in its old place in the order.

What a queue is asked most often (grant, renew, expire, end) costs no more than the logarithm of what is leased.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count

from unisd_rl.types import NumberedPrompt

Clock = Callable[[], float]
_FEWEST_EXPIRIES = 1024


@dataclass(slots=True, eq=False)
class Lease:
    """The right of one actor to complete one unit until `expires_s` on the book's clock."""

    actor: str
    expires_s: float


@dataclass(slots=True, eq=False)
class _Unit:
    """`prompts` are not done yet; `commits` counts the commits that are storing them at this moment."""

    index: int
    prompts: dict[int, NumberedPrompt] = field(default_factory=dict)
    leasable: bool = False
    lease: Lease | None = None
    commits: int = 0
    queued: bool = False  # it has an entry in the heap of waiting units, perhaps one that no longer holds

    @property
    def waits(self) -> bool:
        return self.leasable and self.lease is None and not self.commits and bool(self.prompts)


class LeaseBook:
    """Prompts that are not completed yet, lowest number first. `clock` returns seconds."""

    def __init__(self, lease_s: float, clock: Clock, unit_size: int = 1) -> None:
        self._lease_s, self._clock, self._unit_size = lease_s, clock, unit_size
        self._units: dict[int, _Unit] = {}
        self._waiting: list[int] = []
        self._held: defaultdict[str, set[int]] = defaultdict(set)
        self._expiries: list[tuple[float, int, int, Lease]] = []
        self._most_expiries = _FEWEST_EXPIRIES
        self._entries = count()

    def unit_of(self, number: int) -> int:
        """The unit that prompt `number` is leased in."""
        return number // self._unit_size

    def numbers_of(self, unit: int) -> range:
        """All prompt numbers of a unit, done or not."""
        return range(unit * self._unit_size, (unit + 1) * self._unit_size)

    def add(self, prompt: NumberedPrompt) -> None:
        """Take in a prompt; it waits once its unit is opened."""
        unit = self._unit(self.unit_of(prompt.number))
        assert prompt.number not in unit.prompts, f"prompt {prompt.number} was added twice"
        unit.prompts[prompt.number] = prompt

    def open(self, unit: int) -> None:
        """All prompts of this unit are there: it may be leased."""
        self._unit(unit).leasable = True
        self._requeue(unit)

    def first(self) -> tuple[NumberedPrompt, ...]:
        """The prompts of the lowest unit that waits; empty if none does."""
        unit = self._first()
        return tuple(unit.prompts.values()) if unit else ()

    def grant(self, actor: str, wanted: int, may_start: Callable[[NumberedPrompt], bool]) -> list[NumberedPrompt]:
        """Lease the lowest units as far as all their prompts may start, until there are `wanted` prompts.

        Units stay whole, so the last one may go over `wanted`.
        """
        granted: list[NumberedPrompt] = []
        while len(granted) < wanted and (unit := self._first()) and all(map(may_start, unit.prompts.values())):
            self._lease(unit, actor)
            granted += unit.prompts.values()
        return granted

    def holder(self, number: int) -> str | None:
        """The actor that holds this prompt's lease, or None."""
        unit = self._units.get(self.unit_of(number))
        return unit.lease.actor if unit and unit.lease and number in unit.prompts else None

    def remaining(self, unit: int) -> tuple[int, ...]:
        """The numbers of a unit that were added and have not ended."""
        known = self._units.get(unit)
        return tuple(known.prompts) if known else ()

    def renew(self, actor: str, numbers: Iterable[int]) -> None:
        """Start the time of these leases anew, and lease what waits of them to this actor again.

        Also those not added yet (the book is of a queue that was started again, the actor went on): they
        are its own from now on, unless it stops renewing them. Another actor's lease stays.
        """
        for index in {self.unit_of(number) for number in numbers}:
            unit = self._unit(index)
            if unit.lease is not None and unit.lease.actor == actor:
                unit.lease.expires_s = self._clock() + self._lease_s
            elif unit.lease is None and not unit.commits:
                self._lease(unit, actor)

    def end(self, number: int) -> None:
        """Forget this prompt wherever it is: it is completed or given up."""
        index = self.unit_of(number)
        if index in self._units:
            self._units[index].prompts.pop(number, None)
            self._requeue(index)

    def give_back(self, unit: int) -> None:
        """End this unit's lease and let it wait again."""
        self._unlease(self._units[unit])
        self._requeue(unit)

    def begin_commit(self, units: Iterable[int]) -> None:
        """Somebody is storing these units: nobody may be given them, and no lease of them expires."""
        for index in units:
            unit = self._unit(index)
            self._unlease(unit)
            unit.commits += 1

    def end_commit(self, units: Iterable[int], actor: str | None) -> None:
        """The end of `begin_commit`. What has not ended meanwhile is leased to `actor`, or waits again."""
        for index in units:
            unit = self._units[index]
            unit.commits -= 1
            if actor is not None and not unit.commits and unit.prompts:
                self._lease(unit, actor)
            self._requeue(index)

    def release(self, actor: str) -> list[int]:
        """Let everything this actor holds wait again; those units."""
        units = sorted(self._held[actor])
        for unit in units:
            self.give_back(unit)
        del self._held[actor]
        return units

    def expire(self) -> list[int]:
        """Let the prompts of expired leases wait again; their numbers."""
        now = self._clock()
        expired: list[int] = []
        while self._expiries and self._expiries[0][0] <= now:
            *_, index, lease = heapq.heappop(self._expiries)
            if not self._is_out(index, lease):
                continue
            if lease.expires_s > now:  # it was renewed: this entry is of its earlier time
                self._push_expiry(index, lease)
                continue
            expired += self._units[index].prompts
            self.give_back(index)
        return sorted(expired)

    def until_expiry_s(self) -> float:
        """Seconds in which no lease expires. With no lease out, a new one lasts `lease_s` from its start."""
        first_s = self._expiries[0][0] - self._clock() if self._expiries else self._lease_s
        return max(0.0, first_s)

    @property
    def waiting(self) -> int:
        """Prompts that wait for an actor."""
        return sum(len(unit.prompts) for unit in self._units.values() if unit.waits)

    @property
    def leased(self) -> int:
        """Prompts an actor holds."""
        return sum(len(unit.prompts) for unit in self._leased())

    def _leased(self) -> Iterator[_Unit]:
        return (unit for unit in self._units.values() if unit.lease is not None)

    def _unit(self, index: int) -> _Unit:
        return self._units.setdefault(index, _Unit(index))

    def _first(self) -> _Unit | None:
        while self._waiting:
            unit = self._units.get(self._waiting[0])
            if unit is not None and unit.waits:
                return unit
            heapq.heappop(self._waiting)
            if unit is not None:
                unit.queued = False
        return None

    def _lease(self, unit: _Unit, actor: str) -> None:
        unit.lease = Lease(actor, self._clock() + self._lease_s)
        self._held[actor].add(unit.index)
        self._push_expiry(unit.index, unit.lease)

    def _unlease(self, unit: _Unit) -> None:
        if unit.lease is not None:
            self._held[unit.lease.actor].discard(unit.index)
            unit.lease = None

    def _push_expiry(self, unit: int, lease: Lease) -> None:
        heapq.heappush(self._expiries, (lease.expires_s, next(self._entries), unit, lease))
        if len(self._expiries) > self._most_expiries:  # most are of leases that ended, long before they could expire
            self._expiries = [entry for entry in self._expiries if self._is_out(entry[2], entry[3])]
            heapq.heapify(self._expiries)
            self._most_expiries = _FEWEST_EXPIRIES + 2 * len(self._expiries)

    def _is_out(self, unit: int, lease: Lease) -> bool:
        return unit in self._units and self._units[unit].lease is lease

    def _requeue(self, index: int) -> None:
        """Put a unit whose state changed where it belongs: among those that wait, or nowhere."""
        unit = self._units[index]
        if unit.waits and not unit.queued:
            unit.queued = True
            heapq.heappush(self._waiting, index)
        elif not unit.prompts and not unit.commits and (unit.leasable or unit.lease is None):
            self._unlease(unit)
            del self._units[index]

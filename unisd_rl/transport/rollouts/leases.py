"""Which admitted prompt waits, and which is leased to which actor until when.

Pure bookkeeping without waiting: the queue asks and decides. A lease that is not renewed within
`lease_s` has expired and its prompt waits again, in its old place in the order.
"""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from unisd_rl.types import NumberedPrompt

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one actor to complete one prompt until `expires_s` on the book's clock."""

    actor: str
    expires_s: float


class LeaseBook:
    """Prompts that are not completed yet, lowest number first. `clock` returns seconds."""

    def __init__(self, lease_s: float, clock: Clock) -> None:
        self._lease_s, self._clock = lease_s, clock
        self._prompts: dict[int, NumberedPrompt] = {}
        self._waiting: list[int] = []
        self._leases: dict[int, Lease] = {}

    def add(self, prompts: Iterable[NumberedPrompt]) -> None:
        """Let new prompts wait."""
        for prompt in prompts:
            assert prompt.number not in self._prompts, f"prompt {prompt.number} was added twice"
            self._prompts[prompt.number] = prompt
            heapq.heappush(self._waiting, prompt.number)

    def first(self) -> NumberedPrompt | None:
        """The prompt with the lowest number that waits, or None."""
        return self._prompts[self._waiting[0]] if self._waiting else None

    def grant(self, actor: str, wanted: int, may_start: Callable[[NumberedPrompt], bool]) -> list[NumberedPrompt]:
        """Lease up to `wanted` prompts, lowest numbers first, as far as they may start."""
        granted: list[NumberedPrompt] = []
        while len(granted) < wanted and (prompt := self.first()) is not None and may_start(prompt):
            heapq.heappop(self._waiting)
            self._leases[prompt.number] = self._lease(actor)
            granted.append(prompt)
        return granted

    def holder(self, number: int) -> str | None:
        """The actor that holds this prompt's lease, or None."""
        lease = self._leases.get(number)
        return lease.actor if lease else None

    def renew(self, actor: str) -> None:
        """Start the time of all leases of this actor anew."""
        for number in self._held(actor):
            self._leases[number] = self._lease(actor)

    def end(self, number: int) -> None:
        """Forget this prompt, leased or waiting: it is completed or given up."""
        del self._prompts[number]
        if self._leases.pop(number, None) is None:
            self._waiting.remove(number)
            heapq.heapify(self._waiting)

    def give_back(self, number: int) -> None:
        """End this prompt's lease and let it wait again."""
        del self._leases[number]
        heapq.heappush(self._waiting, number)

    def release(self, actor: str) -> list[int]:
        """Let everything this actor holds wait again; those numbers."""
        numbers = self._held(actor)
        for number in numbers:
            self.give_back(number)
        return numbers

    def expire(self) -> list[int]:
        """Let the prompts of expired leases wait again; those numbers."""
        now = self._clock()
        numbers = [number for number, lease in self._leases.items() if lease.expires_s <= now]
        for number in numbers:
            self.give_back(number)
        return numbers

    def until_expiry_s(self) -> float:
        """Seconds until a lease may expire. With no lease out, a new one lasts `lease_s` from its start."""
        now = self._clock()
        return max(0.0, min((lease.expires_s - now for lease in self._leases.values()), default=self._lease_s))

    @property
    def waiting(self) -> int:
        """Prompts that wait for an actor."""
        return len(self._waiting)

    @property
    def leased(self) -> int:
        """Prompts an actor holds."""
        return len(self._leases)

    def _lease(self, actor: str) -> Lease:
        return Lease(actor, self._clock() + self._lease_s)

    def _held(self, actor: str) -> list[int]:
        return [number for number, lease in self._leases.items() if lease.actor == actor]

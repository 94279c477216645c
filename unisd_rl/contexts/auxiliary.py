"""Auxiliary contexts: what teachers read in front of a problem, above all the solved examples of others.

An auxiliary view never contains its own problem's answer (`leakage.py` says what that means). Whatever leaks it is
passed over; where too little is left, the problem has fewer contexts than were asked for, and preparation drops it.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from typing_extensions import override

from unisd_rl.contexts.leakage import LeakDetector, non_leaking_examples
from unisd_rl.contexts.templates import other_example
from unisd_rl.seeds import derive_seed
from unisd_rl.types import Example


class AuxiliaryContexts(Protocol):
    """What the auxiliary views of a problem read in front of it."""

    def for_example(self, example: Example) -> tuple[str, ...]:
        """At most K distinct references, a pure function of the example; fewer where no more are without a leak."""
        ...


DonorOrder = Callable[[Example], Iterable[Example]]
"""The solved examples of a pool in the order in which a problem takes them; a pure function of the problem."""


class DonorContexts(AuxiliaryContexts):
    """The solved examples of other problems: the first ones of an order that do not leak the answer."""

    def __init__(self, order: DonorOrder, views: int, leaks: LeakDetector) -> None:
        self._order, self._views, self._leaks = order, views, leaks

    @override
    def for_example(self, example: Example) -> tuple[str, ...]:
        donors = non_leaking_examples(example, self._order(example), self._views, self._leaks)
        return tuple(other_example(donor.question, donor.demonstration) for donor in donors)


def random_order(pool: Sequence[Example], seed: int) -> DonorOrder:
    """All of the pool, shuffled anew for each problem."""
    return lambda example: shuffled(pool, derive_seed(seed, "donors", example.id))


def shuffled(pool: Sequence[Example], seed: int) -> Iterator[Example]:
    """All of the pool in random order, drawn as it is read: most callers stop early."""
    draw, moved = random.Random(seed), dict[int, int]()
    for left in range(len(pool), 0, -1):
        index = draw.randrange(left)
        yield pool[moved.get(index, index)]
        moved[index] = moved.get(left - 1, left - 1)

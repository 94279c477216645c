"""Auxiliary contexts, and the simplest of them: the solved examples of other problems, drawn at random.

An auxiliary view never contains its own problem's answer (`leakage.py` says what that means). Whatever leaks it is
passed over; where too little is left, the problem has fewer contexts than were asked for, and preparation drops it.
"""

import random
from collections.abc import Iterator, Sequence
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


class RandomContexts(AuxiliaryContexts):
    """The solved examples of random donors."""

    def __init__(self, pool: Sequence[Example], views: int, seed: int, leaks: LeakDetector) -> None:
        self._pool, self._views, self._seed, self._leaks = pool, views, seed, leaks

    @override
    def for_example(self, example: Example) -> tuple[str, ...]:
        seed = derive_seed(self._seed, "donors", example.id)
        donors = random_donors(example, self._pool, self._views, seed, self._leaks)
        return tuple(other_example(donor.question, donor.demonstration) for donor in donors)


def random_donors(
    example: Example, pool: Sequence[Example], count: int, seed: int, leaks: LeakDetector
) -> tuple[Example, ...]:
    """Up to `count` distinct donors from `pool`, a pure function of the arguments."""
    return non_leaking_examples(example, _shuffled(pool, seed), count, leaks)


def _shuffled(pool: Sequence[Example], seed: int) -> Iterator[Example]:
    """All of the pool in random order, drawn as it is read: most callers stop early."""
    draw, moved = random.Random(seed), dict[int, int]()
    for left in range(len(pool), 0, -1):
        index = draw.randrange(left)
        yield pool[moved.get(index, index)]
        moved[index] = moved.get(left - 1, left - 1)

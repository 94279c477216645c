"""Random donors, and what every way to choose auxiliary views has in common.

An auxiliary view never contains its own problem's answer (`answers.py` says what that means). Whatever gives it away
is passed over; where too little is left, the problem has fewer views than were asked for, and preparation drops it.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol

from unisd_rl.contexts.leakage import leak_detector, leaks_answer
from unisd_rl.contexts.templates import other_example
from unisd_rl.seeds import derive_seed
from unisd_rl.types import Example


class AuxiliaryContexts(Protocol):
    """What the auxiliary views of a problem read in front of it."""

    def for_example(self, example: Example) -> tuple[str, ...]:
        """At most K distinct references, a pure function of the example; fewer where no more are silent."""
        ...


class RandomContexts:
    """`AuxiliaryContexts` from random donors."""

    def __init__(self, pool: Sequence[Example], views: int, seed: int) -> None:
        self._pool, self._views, self._seed = pool, views, seed

    def for_example(self, example: Example) -> tuple[str, ...]:
        """See `AuxiliaryContexts.of`."""
        donors = random_donors(example, self._pool, self._views, derive_seed(self._seed, "donors", example.id))
        return tuple(other_example(donor.question, donor.demonstration) for donor in donors)


def random_donors(example: Example, pool: Sequence[Example], count: int, seed: int) -> tuple[Example, ...]:
    """Up to `count` distinct donors from `pool`, a pure function of the arguments."""
    return non_leaking_examples(example, _shuffled(pool, seed), count)


def non_leaking_examples(example: Example, candidates: Iterable[Example], count: int) -> tuple[Example, ...]:
    """The first `count` candidates that do not give the problem's answer away, no two with the same question."""
    contains, seen = leak_detector(example), set[str]()

    def silent() -> Iterator[Example]:
        for donor in candidates:
            if donor.question not in seen and not leaks_answer(donor, example, contains):
                seen.add(donor.question)
                yield donor

    return tuple(islice(silent(), count))


def _shuffled(pool: Sequence[Example], seed: int) -> Iterator[Example]:
    """All of the pool in random order, drawn as it is read: most callers stop early."""
    draw, moved = random.Random(seed), dict[int, int]()
    for left in range(len(pool), 0, -1):
        index = draw.randrange(left)
        yield pool[moved.get(index, index)]
        moved[index] = moved.get(left - 1, left - 1)

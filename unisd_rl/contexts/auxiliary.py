"""Auxiliary contexts: what teachers read in front of a problem, above all the solved examples of others.

An auxiliary view never contains its own problem's answer (`leakage.py` says what that means). Whatever leaks it is
passed over; where too little is left, the problem has fewer contexts than were asked for, and preparation drops it.

With `contexts.donors_per_step` the donors of a problem follow from the step that trains on it (`StepDonors`).
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
        return tuple(map(reference_of, donors))


class StepDonors:
    """The donors of the problems of each step: from a pool of the step's own, so that their views share what they read.

    The pool of a step is a pure function of the run's seed and the step's number. A problem takes the first that do not
    leak its answer and beside which it is not too long; where these are too few, the donors that were prepared for it
    alone fill up.
    """

    def __init__(
        self,
        examples: int,
        size: int,
        views: int,
        order: Callable[[Sequence[int]], DonorOrder],
        leaks: LeakDetector,
        fits: Callable[[Example, str], bool],
        seed: int,
    ) -> None:
        """Pools of `size` out of so many training examples. `order` ranks those at the given indices for each problem;
        `fits` tells whether a problem's view of a reference is within the limit."""
        self._examples, self._size, self._views, self._seed = examples, size, views, seed
        self._order, self._leaks, self._fits = order, leaks, fits
        self._of_step: tuple[int, DonorOrder] | None = None

    def for_example(self, example: Example, step: int, prepared: Sequence[str]) -> tuple[str, ...]:
        """K distinct references for a problem that step `step` trains on; `prepared` are the K of the problem alone."""
        fitting = (donor for donor in self._ranked(step)(example) if self._fits(example, reference_of(donor)))
        shared = map(reference_of, non_leaking_examples(example, fitting, self._views, self._leaks))
        return tuple(dict.fromkeys((*shared, *prepared)))[: self._views]

    def _ranked(self, step: int) -> DonorOrder:
        """The pool of a step, in the order in which each of its problems takes from it."""
        if self._of_step is None or self._of_step[0] != step:
            draw = random.Random(derive_seed(self._seed, "donor pool", step))
            self._of_step = step, self._order(draw.sample(range(self._examples), min(self._size, self._examples)))
        return self._of_step[1]


def reference_of(donor: Example) -> str:
    """What a view reads of a donor."""
    return other_example(donor.question, donor.demonstration)


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

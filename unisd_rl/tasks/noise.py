"""Wrong demonstrations among the training data, on purpose: what a noisy teacher does can then be studied."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from unisd_rl.seeds import derive_seed
from unisd_rl.types import Example

_ATTEMPTS = 16


def with_wrong_demonstrations(
    examples: Sequence[Example],
    share: float,
    seed: int,
    candidates: Callable[[Example, int], Iterable[str]],
    grade: Callable[[str, Example], bool],
) -> tuple[Example, ...]:
    """The examples, with the demonstration of a share of them replaced by one that is graded wrong.

    The reference answers stay right. Which examples are hit is drawn with the seed: exactly the rounded share.
    """
    drawn = random.Random(derive_seed(seed, "wrong demonstrations")).sample(
        range(len(examples)), round(share * len(examples))
    )
    hit = set(drawn)

    def wrong(example: Example) -> Example:
        tried: Iterator[str] = iter(candidates(example, derive_seed(seed, "noise")))
        for _, text in zip(range(_ATTEMPTS), tried, strict=False):
            if not grade(text, example):
                return replace(example, demonstration=text)
        raise AssertionError(f"no wrong demonstration for {example.id}")

    return tuple(wrong(example) if place in hit else example for place, example in enumerate(examples))

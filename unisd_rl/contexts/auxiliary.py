"""Random donors: the solved examples of other problems that auxiliary views read.

A donor must not give the problem's answer away. Left out are the problem itself, identical questions
and problems with the same answer; donors in whose text the answer occurs as a word are passed over
while others are at hand.
"""

import random
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice

from unisd_rl.errors import UserError
from unisd_rl.types import Example

_LOOKED_AT = 32  # candidates per wanted donor; bounds the search where short answers occur in most texts


def random_donors(example: Example, pool: Sequence[Example], count: int, seed: int) -> tuple[Example, ...]:
    """`count` distinct donors from `pool`, a pure function of the arguments.

    Raises:
        UserError: if the pool has fewer problems with another question and another answer.
    """
    says_answer = re.compile(rf"(?<!\w){re.escape(_normal(example.answer))}(?!\w)")
    silent, telling = list[Example](), list[Example]()
    candidates = (donor for donor in _shuffled(pool, seed) if _another_problem(donor, example))
    for donor in islice(candidates, _LOOKED_AT * count):
        (telling if says_answer.search(_text(donor)) else silent).append(donor)
        if len(silent) == count:
            break
    donors = (*silent, *telling)[:count]
    if len(donors) < count:
        raise UserError(
            f"contexts.auxiliary.views = {count}, but problem {example.id!r} has only {len(donors)} others with "
            "another question and another answer: lower it or add training records"
        )
    return donors


def _shuffled(pool: Sequence[Example], seed: int) -> Iterator[Example]:
    """All of the pool in random order, drawn as it is read: most callers stop early."""
    draw, moved = random.Random(seed), dict[int, int]()
    for left in range(len(pool), 0, -1):
        index = draw.randrange(left)
        yield pool[moved.get(index, index)]
        moved[index] = moved.get(left - 1, left - 1)


def _another_problem(donor: Example, example: Example) -> bool:
    return (
        donor.id != example.id
        and _normal(donor.question) != _normal(example.question)
        and _normal(donor.answer) != _normal(example.answer)
    )


def _text(donor: Example) -> str:
    return _normal(f"{donor.question}\n{donor.demonstration}")


@lru_cache(maxsize=1 << 16)
def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()

"""Induction: general instructions that the model itself writes after reading solved examples.

```
training problems, shuffled -> groups of n -> one request each -> the model writes -> a pool of instructions
                                             problem -> K of the pool, without replacement, none that tells its answer
```
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from unisd_rl.contexts.leakage import instruction_leaks, leak_detector, normal
from unisd_rl.contexts.templates import Chat, advice
from unisd_rl.errors import UserError
from unisd_rl.seeds import derive_seed
from unisd_rl.types import Example, Message

_ASK = (
    "Above are solved examples of one kind of problem. Write general advice for solving other problems of this kind, "
    "in three or four sentences. Say how to proceed and what to take care of. Name nothing that belongs to one example "
    "only: no numbers, names or answers of theirs. Write the advice and nothing else."
)


@dataclass(frozen=True, slots=True)
class Instruction:
    """What the model wrote, and the ids of the problems it had read."""

    text: str
    read: tuple[str, ...]


def demonstration_groups(pool: Sequence[Example], count: int, size: int, seed: int) -> tuple[tuple[Example, ...], ...]:
    """`count` groups of `size` problems, drawn by the seed; no problem is in two.

    Raises:
        UserError: there are too few problems.
    """
    if count * size > len(pool):
        raise UserError(
            f"contexts.auxiliary.instructions = {count} of {size} demonstrations each need {count * size} training "
            f"problems, but there are {len(pool)}: lower one of the two"
        )
    drawn = random.Random(derive_seed(seed, "demonstrations")).sample(range(len(pool)), count * size)
    return tuple(tuple(pool[place] for place in drawn[start : start + size]) for start in range(0, count * size, size))


def instruction_request(group: Sequence[Example]) -> Chat:
    """What the model reads before it writes an instruction."""
    solved = "\n\n".join(f"Problem:\n{one.question}\nSolution:\n{one.demonstration}" for one in group)
    return (Message("user", f"{solved}\n\n---\n\n{_ASK}"),)


def distinct_instructions(written: Sequence[Instruction], views: int) -> tuple[Instruction, ...]:
    """Those that say something, each text once.

    Raises:
        UserError: fewer than `views` are left.
    """
    first = {normal(one.text): one for one in reversed(written) if one.text.strip()}
    kept = tuple(one for one in written if first.get(normal(one.text)) is one)
    if len(kept) < views:
        raise UserError(
            f"of {len(written)} instructions the model wrote, {len(kept)} are complete and differ, and "
            f"contexts.auxiliary.views = {views}: raise contexts.auxiliary.instructions, temperature or max_tokens"
        )
    return kept


class InstructionContexts:
    """`AuxiliaryContexts` from a pool of instructions."""

    def __init__(self, pool: Sequence[Instruction], views: int, seed: int) -> None:
        self._pool, self._views, self._seed = pool, views, seed

    def for_example(self, example: Example) -> tuple[str, ...]:
        """Left out are instructions that tell the answer, or came from reading this problem."""
        contains = leak_detector(example)
        usable = [
            one.text
            for one in self._pool
            if example.id not in one.read and not instruction_leaks(one.text, example, contains)
        ]
        draw = random.Random(derive_seed(self._seed, "instructions", example.id))
        return tuple(map(advice, draw.sample(usable, min(self._views, len(usable)))))

"""Induction: general instructions that the model itself writes after reading solved examples.

```
training problems, shuffled -> groups of n -> one request each -> the model writes -> a pool of instructions
                                             problem -> K of the pool, without replacement, none that leaks its answer
```
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import override

from unisd_rl.contexts.auxiliary import AuxiliaryContexts
from unisd_rl.contexts.leakage import LeakDetector, instruction_leaks
from unisd_rl.contexts.templates import Chat, advice
from unisd_rl.errors import UserError
from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.source_records import print_once
from unisd_rl.tasks.task import normalized
from unisd_rl.types import Example, Message

_ASK = (
    "Above are solved examples of one kind of problem. Write general advice for solving other problems of this kind, "
    "in three or four sentences. Say how to proceed and what to take care of. Name nothing that belongs to one example "
    "only: no numbers, names or answers of theirs. Write the advice and nothing else."
)


_INSTRUCTIONS = 32


@dataclass(frozen=True, slots=True)
class Instruction:
    """What the model wrote, and the ids of the problems it had read."""

    text: str
    read: tuple[str, ...]


def demonstration_groups(
    pool: Sequence[Example], count: int | None, size: int, seed: int
) -> tuple[tuple[Example, ...], ...]:
    """`count` groups of `size` problems, drawn by the seed; no problem is in two. Without a count 32, or as many as the
    pool gives, which is said on stderr.

    Raises:
        UserError: there are too few problems.
    """
    if count is None:
        count = max(1, min(_INSTRUCTIONS, len(pool) // size))
        if count < _INSTRUCTIONS:
            print_once(f"{len(pool)} training problems give {count} instructions of {size} demonstrations each")
    if count * size > len(pool):
        raise UserError(
            f"contexts.auxiliary.instructions = {count} of {size} demonstrations each need {count * size} training "
            f"problems, but there are {len(pool)}: lower one of the two"
        )
    drawn = random.Random(derive_seed(seed, "demonstrations")).sample(pool, count * size)
    return tuple(tuple(drawn[start : start + size]) for start in range(0, count * size, size))


def instruction_request(group: Sequence[Example]) -> Chat:
    """What the model reads before it writes an instruction."""
    solved = "\n\n".join(f"Problem:\n{example.question}\nSolution:\n{example.demonstration}" for example in group)
    return (Message("user", f"{solved}\n\n---\n\n{_ASK}"),)


def distinct_instructions(generated: Sequence[Instruction], views: int) -> tuple[Instruction, ...]:
    """Those that say something, each text once.

    Raises:
        UserError: fewer than `views` are left.
    """
    by_text: dict[str, Instruction] = {}
    for instruction in generated:
        if instruction.text.strip():
            by_text.setdefault(normalized(instruction.text), instruction)
    if len(by_text) < views:
        raise UserError(
            f"of {len(generated)} instructions the model wrote, {len(by_text)} are complete and differ, and "
            f"contexts.auxiliary.views = {views}: raise contexts.auxiliary.instructions, temperature or max_tokens"
        )
    return tuple(by_text.values())


class InstructionContexts(AuxiliaryContexts):
    """Instructions of a pool, drawn for each problem; none that leaks its answer, or came from reading this problem."""

    def __init__(self, pool: Sequence[Instruction], views: int, seed: int, leaks: LeakDetector) -> None:
        self._pool, self._views, self._seed, self._leaks = pool, views, seed, leaks

    @override
    def for_example(self, example: Example) -> tuple[str, ...]:
        usable = [
            instruction.text
            for instruction in self._pool
            if example.id not in instruction.read and not instruction_leaks(instruction.text, example, self._leaks)
        ]
        draw = random.Random(derive_seed(self._seed, "instructions", example.id))
        return tuple(map(advice, draw.sample(usable, min(self._views, len(usable)))))

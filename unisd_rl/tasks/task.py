"""The interface of a task: examples, what the student reads, and a grade.

A task knows nothing of teachers, tokens or models. `unisd_rl/contexts` turns its examples into views, an evaluation
grades completions with it; both rely on the same `grade`.
"""

import hashlib
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import Protocol, runtime_checkable

from unisd_rl.seeds import derive_seed
from unisd_rl.types import Example, Message


class Task(Protocol):
    """A set of problems with worked solutions and reference answers. Training and held-out problems are disjoint.

    Benchmarks that are for evaluation only have no training problems. `grade` may be called from several threads.
    """

    @property
    def train(self) -> Sequence[Example]:
        """Problems to train on; also the pool of solved examples for auxiliary views."""
        ...

    @property
    def evaluation(self) -> Sequence[Example]:
        """Held-out problems, never trained on."""
        ...

    def student_messages(self, example: Example) -> tuple[Message, ...]:
        """What the student reads: a chat that ends with a user turn and holds no part of the solution."""
        ...

    def grade(self, completion: str, example: Example) -> bool:
        """Whether the completion states the right answer; any text is a possible completion.

        Raises:
            SandboxError: what runs programs failed itself, so there is no grade. Nothing else is raised.
        """
        ...

    def wrong_demonstrations(self, example: Example, seed: int) -> Iterator[str]:
        """Candidate demonstrations that should be wrong, best first; the caller verifies each with `grade`."""
        ...


@runtime_checkable
class LeakAware(Protocol):
    """A task that says itself which texts give an answer away. For others the general rule of `contexts.leakage` holds:
    a text leaks an answer that stands in it word for word."""

    def leaks(self, text: str, example: Example) -> bool:
        """Whether the text contains the example's answer; it must not stand in an auxiliary view of that example."""
        ...


def grade_all(task: Task, answers: Iterable[tuple[str, Example]]) -> list[bool]:
    """Whether each completion is right, in order; where grading runs programs, one on every core.

    Raises:
        SandboxError: the sandbox failed, so there are no grades.
    """
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as threads:
        return list(threads.map(lambda answer: task.grade(*answer), answers))


@lru_cache(maxsize=1 << 16)
def normalized(text: str) -> str:
    """The text without regard to case and white space."""
    return " ".join(text.split()).casefold()


def is_held_out(problem: str) -> bool:
    """Whether a drawn problem is one of those kept from training, one in five: by a hash of its text, not by a seed."""
    return hashlib.blake2b(problem.encode(), digest_size=2).digest()[0] % 5 == 0


_ATTEMPTS = 16


def with_wrong_demonstrations(task: Task, share: float, seed: int) -> tuple[Example, ...]:
    """A task's training problems, with a share of the demonstrations replaced by ones graded wrong: a noisy teacher.

    The reference answers stay right. Which examples are replaced is drawn with the seed: exactly the rounded share.
    """
    draw = random.Random(derive_seed(seed, "wrong demonstrations"))
    replaced = set(draw.sample(range(len(task.train)), round(share * len(task.train))))

    def wrong(example: Example) -> Example:
        for text in islice(task.wrong_demonstrations(example, derive_seed(seed, "noise")), _ATTEMPTS):
            if not task.grade(text, example):
                return replace(example, demonstration=text)
        raise AssertionError(f"no wrong demonstration for {example.id}")

    return tuple(wrong(example) if index in replaced else example for index, example in enumerate(task.train))

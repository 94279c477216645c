"""The self-contained task: two-digit sums and differences with written-out carries and borrows.

It needs no download and no licence, a tiny model can learn it in seconds, and its typical mistake, a
dropped carry, gives wrong demonstrations that differ from right ones in a few tokens. Out of domain are numbers of
three digits (`long_sums.py`), which are never trained on.
"""

import random
import re
from collections.abc import Iterator, Sequence

from unisd_rl.config.task import ArithmeticTask
from unisd_rl.errors import UserError
from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.problems import Problem, held_out_pool, long_problems, solution, training_pool, wrong_results
from unisd_rl.tasks.task import with_wrong_demonstrations
from unisd_rl.types import Example, Message

# Eighteen digits fit any integer type; the last part keeps 83 from being read out of 83.5, 83rd or 83,000.
_STATED = re.compile(r"\s*(-?\d{1,18})(?!\w|[.,]\d)")
_ANSWER = re.compile(r"\banswer:", re.IGNORECASE)
_QUESTION = re.compile(r"What is (\d\d)([+-])(\d\d)\?")


class Arithmetic:
    """Seeded draws from the training pool and from the held-out pool of `problems.py`."""

    def __init__(
        self, train_examples: int, eval_examples: int, seed: int, out_of_domain: bool = False, wrong_share: float = 0.0
    ) -> None:
        train = _draw(training_pool(), train_examples, "train_examples", seed)
        self.train: Sequence[Example] = with_wrong_demonstrations(
            train, wrong_share, seed, self.wrong_demonstrations, self.grade
        )
        if out_of_domain:
            self.evaluation: Sequence[Example] = long_problems(eval_examples, derive_seed(seed, "out of domain"))
        else:
            self.evaluation = _draw(held_out_pool(), eval_examples, "eval_examples", seed)

    def student_messages(self, example: Example) -> tuple[Message, ...]:
        """The bare question."""
        return (Message("user", example.question),)

    def grade(self, completion: str, example: Example) -> bool:
        """Whether the last stated answer is exactly the right integer."""
        return stated_integer(completion) == int(example.answer)

    def wrong_demonstrations(self, example: Example, seed: int) -> Iterator[str]:
        """First the dropped carry or borrow, or one too many; then wrong units digits in a seeded order."""
        if not _QUESTION.fullmatch(example.question):
            yield from wrong_results(example)
            return
        problem = problem_of(example.question)
        if problem.carries or problem.operator == "+" or problem.result >= 10:  # no negative tens
            yield solution(problem, carry=0 if problem.carries else 1)
        errors = list(range(1, 10))
        random.Random(derive_seed(seed, "wrong", example.id)).shuffle(errors)
        for error in errors:
            yield solution(problem, units_error=error)


def load(config: ArithmeticTask) -> Arithmetic:
    """The task of an `arithmetic` section.

    Raises:
        UserError: more problems are asked for than there are.
    """
    outside = config.evaluation == "out_of_domain"
    share = config.wrong_demonstrations
    return Arithmetic(config.train_examples, config.eval_examples, config.seed, outside, share)


def stated_integer(completion: str) -> int | None:
    """The integer after the last `Answer:`; None where there is no such line or no integer in it."""
    ends = [match.end() for match in _ANSWER.finditer(completion)]
    stated = _STATED.match(completion, ends[-1]) if ends else None
    return int(stated[1]) if stated else None


def problem_of(question: str) -> Problem:
    """The problem behind a question of this task (the inverse of `Problem.question`)."""
    match = _QUESTION.fullmatch(question)
    assert match is not None, f"not a question of the arithmetic task: {question!r}"
    return Problem(int(match[1]), match[2], int(match[3]))


def _draw(pool: Sequence[Problem], count: int, setting: str, seed: int) -> tuple[Example, ...]:
    if count > len(pool):
        raise UserError(f"task.{setting} = {count}, but arithmetic has only {len(pool)} such problems: lower it")
    drawn = random.Random(derive_seed(seed, setting)).sample(pool, count)
    return tuple(_example(problem) for problem in drawn)


def _example(problem: Problem) -> Example:
    name = f"{problem.left}{problem.operator}{problem.right}"
    return Example(name, problem.question, solution(problem), str(problem.result))

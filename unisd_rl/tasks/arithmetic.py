"""The arithmetic task: two-digit sums and differences with written-out carries and borrows.

It needs no download and no licence, a tiny model can learn it in seconds, and its typical mistake, a dropped carry,
gives wrong demonstrations that differ from right ones in a few tokens. Out of domain are numbers of three digits, which
are never trained on.

A worked solution goes column by column, says what is carried or borrowed, and ends with a line `Answer: N`. The set of
two-digit problems is finite and split once for all: what is held out does not depend on any seed, so that a base model
trained on the other part has seen none of it, whatever the run's seeds.
"""

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from unisd_rl.config.task import ArithmeticTask
from unisd_rl.errors import UserError
from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.task import with_wrong_demonstrations
from unisd_rl.types import Example, Message

HELD_OUT_SHARE = 5  # one problem in so many is held out
LONG_DIGITS = 3  # of the numbers out of domain
_QUESTION = re.compile(r"What is (\d\d)([+-])(\d\d)\?")
_ANSWER = re.compile(r"\banswer:", re.IGNORECASE)
# Eighteen digits fit any integer type; the last part keeps 83 from being read out of 83.5, 83rd or 83,000.
_STATED = re.compile(r"\s*(-?\d{1,18})(?!\w|[.,]\d)")


@dataclass(frozen=True, slots=True)
class Problem:
    """`left + right` or `left - right`; a difference is never negative."""

    left: int
    operator: str
    right: int

    @property
    def result(self) -> int:
        """The right answer."""
        return self.left + self.right if self.operator == "+" else self.left - self.right

    @property
    def name(self) -> str:
        """The term itself, e.g. `17+25`."""
        return f"{self.left}{self.operator}{self.right}"

    @property
    def carries(self) -> bool:
        """Whether the units column carries (sum) or borrows (difference)."""
        left, right = self.left % 10, self.right % 10
        return left + right >= 10 if self.operator == "+" else left < right

    @property
    def question(self) -> str:
        """What the student is asked."""
        return f"What is {self.name}?"

    def example(self, demonstration: str) -> Example:
        """The problem as an example, with this worked solution."""
        return Example(self.name, self.question, demonstration, str(self.result))


def solution(problem: Problem, carry: int | None = None, units_error: int = 0) -> str:
    """The worked solution, column by column from the right, or a consistent wrong one.

    `carry` is what the tens column takes over, 0 or 1 (None: what the units column says); `units_error`
    is added to the units digit, modulo 10. What follows from a mistake is computed from it, so a wrong
    solution reads like a right one. It may still be right by luck of the arguments: grade it.
    """
    rows, taken, result, operator = [], 0, 0, problem.operator
    sign, move = (1, "carry") if operator == "+" else (-1, "borrow")
    last = len(str(problem.left)) - 1
    for column in range(last + 1):
        upper, lower = problem.left // 10**column % 10, problem.right // 10**column % 10
        total = upper + sign * (lower + taken)
        moves = column < last and not 0 <= total <= 9
        if moves and sign < 0:
            upper, total = upper + 10, total + 10
        if column == 0:
            total += (total + units_error) % 10 - total % 10
        earlier = f"{operator}{taken}" if taken else ""
        rows.append(f"{upper}{operator}{lower}{earlier}={total}" + f" {move} 1" * moves)
        result += 10**column * (total if column == last else total % 10)
        taken = int(moves) if carry is None or column > 0 else carry
    return "\n".join([*rows, f"Answer: {result}"])


@cache
def training_pool() -> tuple[Problem, ...]:
    """All problems that may be trained on."""
    return tuple(problem for problem in _problems() if not _is_held_out(problem))


@cache
def held_out_pool() -> tuple[Problem, ...]:
    """All problems that are kept from training, in whichever order their numbers stand."""
    return tuple(problem for problem in _problems() if _is_held_out(problem))


def _problems() -> Iterator[Problem]:
    """Each unordered pair of two-digit numbers once as a sum, in an order chosen by a hash, once as a difference."""
    for high in range(10, 100):
        for low in range(10, high + 1):
            swapped = _hash(high, "+", low)[0] % 2 == 1
            yield Problem(low, "+", high) if swapped else Problem(high, "+", low)
            yield Problem(high, "-", low)


def _is_held_out(problem: Problem) -> bool:
    high, low = max(problem.left, problem.right), min(problem.left, problem.right)
    return _hash(high, problem.operator, low)[1] % HELD_OUT_SHARE == 0


def _hash(high: int, operator: str, low: int) -> bytes:
    return hashlib.blake2b(f"{high}{operator}{low}".encode(), digest_size=2).digest()


def long_problems(count: int, seed: int) -> tuple[Example, ...]:
    """Distinct problems of three-digit numbers; a difference is never negative."""
    draw, examples = random.Random(seed), dict[str, Example]()
    while len(examples) < count:
        first, second = (draw.randrange(10 ** (LONG_DIGITS - 1), 10**LONG_DIGITS) for _ in range(2))
        operator = draw.choice("+-")
        left, right = (max(first, second), min(first, second)) if operator == "-" else (first, second)
        problem = Problem(left, operator, right)
        examples[problem.name] = problem.example(solution(problem))
    return tuple(examples.values())


class Arithmetic:
    """A task of seeded draws from the training pool and from the held-out pool."""

    def __init__(
        self, train_examples: int, eval_examples: int, seed: int, out_of_domain: bool = False, wrong_share: float = 0.0
    ) -> None:
        self.train = _draw(training_pool(), train_examples, "train_examples", seed)
        if out_of_domain:
            self.evaluation = long_problems(eval_examples, derive_seed(seed, "out of domain"))
        else:
            self.evaluation = _draw(held_out_pool(), eval_examples, "eval_examples", seed)
        self.train = with_wrong_demonstrations(self, wrong_share, seed)

    def student_messages(self, example: Example) -> tuple[Message, ...]:
        """The bare question."""
        return (Message("user", example.question),)

    def grade(self, completion: str, example: Example) -> bool:
        """Whether the last stated answer is exactly the right integer."""
        return stated_integer(completion) == int(example.answer)

    def wrong_demonstrations(self, example: Example, seed: int) -> Iterator[str]:
        """First the dropped carry or borrow, or one too many; then wrong units digits in a seeded order.

        Of a long problem: the result one too many or too few in one column.
        """
        if not _QUESTION.fullmatch(example.question):
            work = example.demonstration.rpartition(" ")[0]
            for error in (sign * 10**column for column in range(LONG_DIGITS) for sign in (1, -1)):
                yield f"{work} {int(example.answer) + error}"
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
    return Arithmetic(
        config.train_examples,
        config.eval_examples,
        config.seed,
        out_of_domain=config.evaluation == "out_of_domain",
        wrong_share=config.wrong_demonstrations,
    )


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
    problems = random.Random(derive_seed(seed, setting)).sample(pool, count)
    return tuple(problem.example(solution(problem)) for problem in problems)

"""Two-digit sums and differences with worked solutions: the material of the arithmetic task.

A worked solution goes column by column, says what is carried or borrowed, and ends with a line
`Answer: N`. The set of problems is finite and split once for all: what is held out does not depend
on any seed, so that a base model trained on the other part has seen none of it, whatever the run's seeds.

Three-digit sums and differences: the arithmetic task's problems out of domain, solved in the same written form.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from unisd_rl.types import Example

HELD_OUT_SHARE = 5  # one problem in so many is held out


@dataclass(frozen=True, slots=True)
class Problem:
    """`left + right` or `left - right`, two digits each; a difference is never negative."""

    left: int
    operator: str
    right: int

    @property
    def result(self) -> int:
        """The right answer."""
        return self.left + self.right if self.operator == "+" else self.left - self.right

    @property
    def carries(self) -> bool:
        """Whether the units column carries (sum) or borrows (difference)."""
        return _carries(self.left % 10, self.operator, self.right % 10)

    @property
    def question(self) -> str:
        """What the student is asked."""
        return f"What is {self.left}{self.operator}{self.right}?"


def _carries(left: int, operator: str, right: int) -> bool:
    return left + right >= 10 if operator == "+" else left < right


def solution(problem: Problem, carry: int | None = None, units_error: int = 0) -> str:
    """The worked solution, or a consistent wrong one.

    `carry` is what the tens column takes over, 0 or 1 (None: what the units column says); `units_error`
    is added to the units digit, modulo 10. What follows from a mistake is computed from it, so a wrong
    solution reads like a right one. It may still be right by luck of the arguments: grade it.
    """
    left, right, sign = problem.left % 10, problem.right % 10, 1 if problem.operator == "+" else -1
    stated = int(problem.carries)
    upper = left + 10 * stated if sign < 0 else left
    column = upper + sign * right
    column += (column + units_error) % 10 - column % 10
    noted = f" {'carry' if sign > 0 else 'borrow'} 1" if stated else ""
    taken = stated if carry is None else carry
    tens_row = f"{problem.left // 10}{problem.operator}{problem.right // 10}" + f"{problem.operator}1" * taken
    tens = problem.left // 10 + sign * (problem.right // 10 + taken)
    ones_row = f"{upper}{problem.operator}{right}={column}{noted}"
    return f"{ones_row}\n{tens_row}={tens}\nAnswer: {10 * tens + column % 10}"


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


DIGITS = 3


def long_problems(count: int, seed: int) -> tuple[Example, ...]:
    """Distinct problems; a difference is never negative."""
    draw, examples = random.Random(seed), dict[str, Example]()
    while len(examples) < count:
        first, second = (draw.randrange(10 ** (DIGITS - 1), 10**DIGITS) for _ in range(2))
        operator = draw.choice("+-")
        left, right = (max(first, second), min(first, second)) if operator == "-" else (first, second)
        name = f"{left}{operator}{right}"
        result = left + right if operator == "+" else left - right
        examples[name] = Example(name, f"What is {name}?", _solution(left, operator, right, result), str(result))
    return tuple(examples.values())


def wrong_results(example: Example) -> Iterator[str]:
    """The solution with a wrong result: one too many or too few in one column."""
    work = example.demonstration.rpartition(" ")[0]
    for column in range(DIGITS):
        for error in (10**column, -(10**column)):
            yield f"{work} {int(example.answer) + error}"


def _solution(left: int, operator: str, right: int, result: int) -> str:
    """Column by column from the right, as in `problems.solution`."""
    rows, taken = [], 0
    for column in range(DIGITS):
        upper, lower = left // 10**column % 10, right // 10**column % 10
        total = upper + lower + taken if operator == "+" else upper - lower - taken
        moves = (total > 9 or total < 0) and column < DIGITS - 1
        if operator == "-" and moves:
            upper, total = upper + 10, total + 10
        earlier = f"{operator}{taken}" if taken else ""
        noted = (" carry 1" if operator == "+" else " borrow 1") if moves else ""
        rows.append(f"{upper}{operator}{lower}{earlier}={total}{noted}")
        taken = int(moves)
    return "\n".join([*rows, f"Answer: {result}"])

"""Three-digit sums and differences: the arithmetic task's problems out of domain, solved in the same written form."""

import random
from collections.abc import Iterator

from unisd_rl.types import Example

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

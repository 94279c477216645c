"""The multiples task, multiple choice: which of four numbers is a multiple of D, with every division written out.

Two-digit numbers; out of domain, four-digit ones. What is held out is decided by a hash of the problem, so that the
split depends on no seed. It needs a model that reads questions; the embedded base model does not.
"""

import random
from collections.abc import Iterator
from string import ascii_uppercase

from typing_extensions import override

from unisd_rl.config.task import MultiplesTask
from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.multiple_choice import MultipleChoice, Question, options_of, solution
from unisd_rl.tasks.task import is_held_out, with_wrong_demonstrations
from unisd_rl.types import Example

DIVISORS = range(3, 10)
NUMBERS = {"in_domain": (10, 99), "out_of_domain": (1000, 9999)}
_STEM = "Which of these numbers is a multiple of {}?"


class Multiples(MultipleChoice):
    """Multiple choice whose wrong demonstrations have a wrong division that leads to their answer."""

    @override
    def wrong_demonstrations(self, example: Example, seed: int) -> Iterator[str]:
        """For each wrong option, in a seeded order: the division that makes it look right, and the right one wrong."""
        right, options = example.answer[0], options_of(example)
        divisor = int(example.question.partition("multiple of ")[2].partition("?")[0])
        letters = [letter for letter in options if letter != right]
        random.Random(derive_seed(seed, "wrong", example.id)).shuffle(letters)
        for claimed in letters:
            lines = [
                _division(int(text), divisor, (letter == claimed) - (letter == right))
                for letter, text in options.items()
            ]
            yield solution("\n".join(lines), claimed)


def load(config: MultiplesTask) -> Multiples:
    """The task of a `multiples` section."""
    train = _drawn(config.train_examples, "in_domain", False, derive_seed(config.seed, "train"))
    evaluation = _drawn(config.eval_examples, config.evaluation, True, derive_seed(config.seed, config.evaluation))
    task = Multiples(train, evaluation, config.grade_thinking)
    task.train = with_wrong_demonstrations(task, config.wrong_demonstrations, config.seed)
    return task


def _drawn(count: int, domain: str, held_out: bool, seed: int) -> list[Example]:
    """Distinct problems of one side of the split. There are millions of them, so that drawing ends soon."""
    draw, examples = random.Random(seed), dict[str, Example]()
    low, high = NUMBERS[domain]
    while len(examples) < count:
        divisor, numbers = draw.choice(DIVISORS), draw.sample(range(low, high + 1), 12)
        quotient = draw.randint(-(-low // divisor), high // divisor)
        options = [*[number for number in numbers if number % divisor][:3], divisor * quotient]
        draw.shuffle(options)
        name = f"{divisor}:{','.join(map(str, options))}"
        key = f"{divisor}:{sorted(options)}"  # another order is the same problem
        if len(options) == 4 and is_held_out(key) == held_out:
            examples[name] = _example(name, divisor, options)
    return list(examples.values())


def _example(name: str, divisor: int, options: list[int]) -> Example:
    right = next(index for index, number in enumerate(options) if number % divisor == 0)
    question = Question(_STEM.format(divisor), tuple(map(str, options)), right)
    rationale = "\n".join(_division(number, divisor, 0) for number in options)
    return Example(name, question.text, solution(rationale, ascii_uppercase[right]), question.answer)


def _division(number: int, divisor: int, mistake: int) -> str:
    """One written-out division; with mistake 1 the remainder is dropped, with -1 there seems to be one."""
    quotient, remainder = divmod(number, divisor)
    if mistake < 0:
        return f"{number} = {divisor} * {quotient - 1} + {divisor - 1}"
    return f"{number} = {divisor} * {quotient} + {0 if mistake else remainder}"

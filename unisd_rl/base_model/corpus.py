"""The training corpus of the base model: all the forms of prompt it will ever meet.

plain          the bare question, answered; carry and borrow are often forgotten
auxiliary      another problem's solved example first; answered just like a plain one
demonstrated   the primary form, whose answer repeats the demonstration, whatever that says: right, with
               a wrong carry or digit, or about another problem altogether. So the only rule that fits is
               to read; this makes the primary and the negative view one and the same skill.
departing      the same, but the answer has already left the demonstration, and goes on from what it
               wrote itself: a teacher that scores a student's mistake must not call what follows wrong.

No held-out problem of the task occurs, not even as a donor.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile

from unisd_rl.base_model.recipe import BaseModelRecipe
from unisd_rl.contexts.templates import Chat, with_demonstration, with_other_example
from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.arithmetic import Problem, solution, training_pool
from unisd_rl.types import Message


@dataclass(frozen=True, slots=True)
class Sample:
    """A chat, how the completion begins (read, not learned), and the rest of it, which is learned.

    `shown` is a worked solution within the chat that is learned as well: more practice at no cost.
    """

    chat: Chat
    completion: str
    begun: str = ""
    shown: str = ""


class Corpus:
    """An endless, seeded stream of batches; batch i holds one list of samples per form."""

    def __init__(self, recipe: BaseModelRecipe) -> None:
        self._recipe = recipe
        self._pool = training_pool()
        self._draw = random.Random(derive_seed(recipe.seed, "corpus"))

    def batch(self) -> tuple[list[Sample], ...]:
        """The samples of one training step: plain, auxiliary, demonstrated, departing."""
        forms: tuple[tuple[Callable[[], Sample], int], ...] = (
            (self.plain, self._recipe.plain),
            (self.auxiliary, self._recipe.auxiliary),
            (self.demonstrated, self._recipe.demonstrated),
            (self.departing, self._recipe.departing),
        )
        return tuple([form() for _ in range(count)] for form, count in forms)

    def plain(self) -> Sample:
        """A question and an answer that may have forgotten the carry."""
        problem = self._problem()
        return Sample(_chat(problem), self._answer(problem))

    def auxiliary(self) -> Sample:
        """The same behind a solved example of another problem, whose solution is right."""
        problem, donor = self._problem(), self._problem()
        chat = with_other_example(_chat(problem), donor.question, solution(donor))
        return Sample(chat, self._answer(problem), shown=solution(donor))

    def demonstrated(self) -> Sample:
        """A question with a demonstration of any worth, and an answer that repeats it."""
        problem = self._problem()
        shown = self._draw.choice([problem, problem, problem, self._problem()])
        demonstration = self._variant(shown)
        chat = with_demonstration(_chat(problem), demonstration)
        return Sample(chat, demonstration, shown=demonstration if shown is problem else "")

    def departing(self) -> Sample:
        """A demonstration and an answer that differ in the last character of what is begun."""
        problem = self._problem()
        demonstration = answer = self._variant(problem)
        while answer == demonstration:
            answer = self._variant(problem)
        pairs = zip(demonstration, answer, strict=False)
        begun = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) + 1
        chat = with_demonstration(_chat(problem), demonstration)
        return Sample(chat, answer[begun:], answer[:begun], demonstration)

    def _variant(self, problem: Problem) -> str:
        """A solution that is right, or has the wrong carry, a wrong digit, or both."""
        carry = int(problem.carries) ^ (self._draw.random() < 1 / 3)
        error = self._draw.randrange(10) if self._draw.random() < 1 / 4 else 0
        return solution(problem, carry, error)

    def _problem(self) -> Problem:
        return self._draw.choice(self._pool)

    def _answer(self, problem: Problem) -> str:
        forgets = problem.carries and self._draw.random() < self._recipe.forgotten_carry
        return solution(problem, carry=0 if forgets else None)


def _chat(problem: Problem) -> Chat:
    return (Message("user", problem.question),)

"""Corrupted demonstrations: the gold one with another answer wherever the right one stands in it.

Multiple choice: a wrong option changes places with the right one, text and stated letter (`multiple_choice.py`).
Numbers: a near one. Tool calls written in JSON: the calls with one mistake. Other answers: those of other problems.
What follows from the answer follows from the wrong one, so that a corrupted rationale reads like a right one. A
rationale that does not name the answer would go on arguing for it: it gets a slip in its last number, is denied, or
is left out. A demonstration in which the answer does not stand gives no candidate.
"""

import random
import re
from collections.abc import Iterator, Sequence

from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.calls import calls_in, to_json
from unisd_rl.tasks.multiple_choice import other_options, right_letter
from unisd_rl.tasks.perturbation import (
    denial_of,
    near_numbers,
    rationale_of,
    replaced,
    with_a_slip,
    without_rationale,
)
from unisd_rl.tasks.programs import functions_of
from unisd_rl.tasks.tool_calling import mistaken_calls
from unisd_rl.types import Example

_NUMBER = re.compile(r"-?\d{1,18}(?:\.\d{1,18})?")


class Corruption:
    """A corrupter of one task's demonstrations; `pool` lends its answers where nothing else is near."""

    def __init__(self, pool: Sequence[Example], seed: int) -> None:
        self._pool, self._seed = pool, seed

    def candidates(self, example: Example) -> Iterator[str]:
        """In a seeded order, each different from the gold demonstration; none for programs."""
        draw = random.Random(derive_seed(self._seed, "corruption", example.id))
        if right_letter(example) is not None:
            texts = other_options(example, draw)
        elif functions_of(example.demonstration):
            return
        else:
            texts = self._other_answers(example, draw)
        yield from (text for text in texts if text != example.demonstration)

    def _other_answers(self, example: Example, draw: random.Random) -> Iterator[str]:
        answer, gold = example.answer.strip(), example.demonstration
        is_number = _NUMBER.fullmatch(answer) is not None
        rationale = "" if calls_in(answer) else rationale_of(gold)  # a thought before a call argues for no answer
        for other in near_numbers(answer, draw) if is_number else self._answers_near(answer, draw):
            text = replaced(gold, {answer: other})
            if text != gold:
                slip = with_a_slip(rationale, draw) if is_number else rationale
                yield without_rationale(text, rationale, slip, denial_of(rationale), "")

    def _answers_near(self, answer: str, draw: random.Random) -> Iterator[str]:
        if calls := calls_in(answer):
            mistakes = list(mistaken_calls(calls))
            draw.shuffle(mistakes)
            yield from map(to_json, mistakes)
            return
        for _ in self._pool:
            yield draw.choice(self._pool).answer.strip()

"""Corrupted demonstrations: the gold one with another answer wherever the right one stands in it.

Multiple choice: a wrong option changes places with the right one, text and stated letter. Numbers: a near one. Other
answers: those of other problems. What follows from the answer follows from the wrong one, so that a corrupted
rationale reads like a right one. A demonstration in which the answer does not stand gives no candidate.
"""

import random
import re
from collections.abc import Iterator, Sequence

from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.calls import calls_in
from unisd_rl.tasks.multiple_choice import options_of, right_letter
from unisd_rl.tasks.programs import functions_of
from unisd_rl.types import Example

_NUMBER = re.compile(r"-?\d{1,18}(?:\.\d{1,18})?")
_LABEL = re.compile(r"(\b(?:answer|option|choice)\b(?:\s+is\b)?[\s:=]*[(\[*\"']*)([A-Z])(?!\w)", re.IGNORECASE)


class Corruption:
    """A corrupter of one task's demonstrations; `pool` lends its answers where nothing else is near."""

    def __init__(self, pool: Sequence[Example], seed: int) -> None:
        self._pool, self._seed = pool, seed

    def candidates(self, example: Example) -> Iterator[str]:
        """In a seeded order, each different from the gold demonstration; none for programs and tool calls."""
        draw = random.Random(derive_seed(self._seed, "corruption", example.id))
        if (letter := right_letter(example)) is not None:
            texts = _other_options(example, letter, draw)
        elif calls_in(example.answer) or functions_of(example.demonstration):
            return
        else:
            texts = self._other_answers(example, draw)
        yield from (text for text in texts if text != example.demonstration)

    def _other_answers(self, example: Example, draw: random.Random) -> Iterator[str]:
        answer = example.answer.strip()
        others = near_numbers(answer, draw) if _NUMBER.fullmatch(answer) else self._borrowed(draw)
        return (_replaced(example.demonstration, {answer: other}) for other in others)

    def _borrowed(self, draw: random.Random) -> Iterator[str]:
        for _ in self._pool:
            yield draw.choice(self._pool).answer.strip()


def near_numbers(number: str, draw: random.Random) -> Iterator[str]:
    """Numbers near a decimal one, with as many places, in a drawn order: the slips of the pen."""
    integer, _, places = number.partition(".")
    unit, value = 10 ** len(places), int(integer + places)
    steps = [1, -1, 2, -2, 10, -10, unit, -unit]
    draw.shuffle(steps)
    for near in dict.fromkeys(value + step for step in steps):
        if near < 0 <= value:
            continue
        digits = f"{abs(near):0{len(places) + 1}d}"
        text = f"{digits[: -len(places)]}.{digits[-len(places) :]}" if places else digits
        yield f"-{text}" if near < 0 else text


def stated_letter_changed(text: str, letter: str, other: str) -> str:
    """Every statement of `letter` ("Answer: B", "option (B)") made one of `other`, and a last line that is it alone."""
    swapped = _LABEL.sub(lambda match: match[1] + (other if match[2].upper() == letter else match[2]), text)
    return re.sub(rf"(?m)^(\W*){letter}(\W*)\Z", rf"\g<1>{other}\g<2>", swapped)


def _other_options(example: Example, letter: str, draw: random.Random) -> Iterator[str]:
    options = options_of(example)
    others = [other for other in options if options[other] != options[letter]]
    draw.shuffle(others)
    for other in others:
        swapped = _replaced(example.demonstration, {options[letter]: options[other], options[other]: options[letter]})
        yield stated_letter_changed(swapped, letter, other)


def _replaced(text: str, words: dict[str, str]) -> str:
    """Each key by its value, all at once and as whole words; the first letter keeps its case."""
    longest_first = sorted(words, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)
    folded = {key.casefold(): value for key, value in words.items()}
    return pattern.sub(lambda match: in_case_of(match[0], folded[match[0].casefold()]), text)


def in_case_of(model: str, word: str) -> str:
    """A word that begins with a capital or a small letter as `model` does."""
    if model[:1].isupper():
        return word[:1].upper() + word[1:]
    return word[:1].lower() + word[1:] if model[:1].islower() and word[1:2].islower() else word

"""Perturbed demonstrations: words of the gold demonstration replaced, from a small table (`perturbation.toml`).

Four kinds of change: antonyms ("more" - "less"), synonyms ("big" - "large"), negation ("is" - "is not"), numbers. The
first candidates change one place, later ones more. A synonym seldom makes an answer wrong: what the stated answer is
made of, a number or an option's letter, is a word too and may change like others; the grader decides.
"""

import random
import re
import tomllib
from collections.abc import Iterator
from itertools import chain, permutations
from pathlib import Path

from unisd_rl.contexts.corruption import in_case_of, near_numbers, stated_letter_changed
from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.multiple_choice import options_of, right_letter
from unisd_rl.types import Example

_NEGATED = re.compile(
    r"\b(is|are|was|were|can|could|will|would|should|does|do|did|has|have|had)\b( not\b)?", re.IGNORECASE
)
_NUMBER = re.compile(r"(?<![\w.])\d{1,18}(?![\w.]*\w)")


def _table() -> dict[str, tuple[str, ...]]:
    pairs_by_kind = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    table: dict[str, tuple[str, ...]] = {}
    for pair in chain.from_iterable(pairs_by_kind.values()):
        for word, other in permutations(pair.split()):
            table[word] = (*table.get(word, ()), other)
    return table


WORDS = _table()
"""Word -> those it may become. Both ways."""
_WORD = re.compile(rf"\b(?:{'|'.join(sorted(WORDS, key=len, reverse=True))})\b", re.IGNORECASE)
_CANDIDATES = 64


def perturbed(example: Example, seed: int) -> Iterator[str]:
    """Perturbed demonstrations in a seeded order, no two the same; none where no word is in the table."""
    text = example.demonstration
    matches = [*_WORD.finditer(text), *_NEGATED.finditer(text), *_NUMBER.finditer(text)]
    letters = [letter for letter in options_of(example) if letter != right_letter(example)]
    draw, seen = random.Random(derive_seed(seed, "perturbation", example.id)), {text}
    for number in range(_CANDIDATES if matches else 0):
        changed = _changed(text, draw.sample(matches, min(len(matches), 1 + number)), draw)
        if letters and draw.random() < 0.5:
            changed = stated_letter_changed(changed, right_letter(example) or "", draw.choice(letters))
        if changed not in seen:
            seen.add(changed)
            yield changed


def _changed(text: str, matches: list[re.Match[str]], draw: random.Random) -> str:
    changed, end = "", 0
    for match in sorted(matches, key=re.Match.start):
        if match.start() >= end:  # "has" is in two tables
            changed += text[end : match.start()] + _other(match, draw)
            end = match.end()
    return changed + text[end:]


def _other(match: re.Match[str], draw: random.Random) -> str:
    word = match[0]
    if word.isdecimal():
        return next(near_numbers(word, draw))
    if (others := WORDS.get(word.casefold())) is not None:
        return in_case_of(word, draw.choice(others))
    return match[1] if match[2] else f"{word} not"

"""Lexical perturbation: words of a solution replaced, negated or denied, from a small table (`perturbation.toml`).

Four kinds of change: antonyms ("more" - "less"), synonyms ("big" - "large"), negation ("is" - "is not"), numbers.
Nothing here knows what a text answers; whoever makes a wrong demonstration of it lets the grader decide.
"""

import random
import re
import tomllib
from collections.abc import Iterator, Mapping
from itertools import permutations
from pathlib import Path

_NEGATED = re.compile(
    r"\b(is|are|was|were|can|could|will|would|should|does|do|did|has|have|had)\b( not\b)?", re.IGNORECASE
)
_NUMBER = re.compile(r"(?<![\w.])\d{1,18}(?![\w.]*\w)")
_SENTENCE = re.compile(r"[^\n.!?]+(?:[.!?](?=\S)[^\n.!?]*)*[.!?]*")
_ANSWER = re.compile(r"\banswer\b\W{0,3}(?:\s+is\b|[:=])", re.IGNORECASE)


def _pairs() -> dict[str, list[tuple[str, str]]]:
    pairs_by_kind = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return {
        kind: [order for pair in pairs for order in permutations(pair.split())] for kind, pairs in pairs_by_kind.items()
    }


def _table(pairs: list[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    table: dict[str, tuple[str, ...]] = {}
    for word, other in pairs:
        table[word] = (*table.get(word, ()), other)
    return table


_PAIRS = _pairs()
WORDS = _table([pair for pairs in _PAIRS.values() for pair in pairs])
"""Word -> those it may become. Both ways."""
_ANTONYMS = {word: others[0] for word, others in _table(_PAIRS["antonyms"]).items()}
_WORD = re.compile(rf"\b(?:{'|'.join(sorted(WORDS, key=len, reverse=True))})\b", re.IGNORECASE)


def changeable_places(text: str) -> list[re.Match[str]]:
    """The words, verbs and numbers of a text that `changed_at` changes."""
    return [*_WORD.finditer(text), *_NEGATED.finditer(text), *_NUMBER.finditer(text)]


def changed_at(text: str, places: list[re.Match[str]], draw: random.Random) -> str:
    """The text with another word, negation or number at each of some of its `changeable_places`."""
    changed, end = "", 0
    for match in sorted(places, key=re.Match.start):
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
    return _negation(match)


def _negation(match: re.Match[str]) -> str:
    return match[1] if match[2] else f"{match[0]} not"


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


def replaced(text: str, words: Mapping[str, str]) -> str:
    """Each key by its value, all at once and as whole words, singular or plural; the first letter keeps its case."""
    longest_first = sorted(words, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, longest_first))})(s?)(?!\w)", re.IGNORECASE)
    folded = {key.casefold(): value for key, value in words.items()}
    return pattern.sub(lambda match: in_case_of(match[1], folded[match[1].casefold()]) + match[2], text)


def in_case_of(model: str, word: str) -> str:
    """A word that begins with a capital or a small letter as `model` does."""
    if model[:1].isupper():
        return word[:1].upper() + word[1:]
    return word[:1].lower() + word[1:] if model[:1].islower() and word[1:2].islower() else word


def rationale_of(solution: str) -> str:
    """What a solution says before it states its answer: the whole sentences before the last "Answer:", or else all
    but the last line. May be empty."""
    labels = list(_ANSWER.finditer(solution))
    if not labels:
        return solution.strip().rpartition("\n")[0].strip()
    before = solution[: labels[-1].start()]
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s)|\n", before)]
    return before[: ends[-1]].strip() if ends else ""


def without_rationale(text: str, rationale: str, *others: str) -> str:
    """A changed solution; where the right one's rationale still stands in it as it was, the first of `others` that
    differs takes its place."""
    if not rationale or rationale not in text:
        return text
    return text.replace(rationale, next(other for other in others if other != rationale)).strip()


def denial_of(text: str) -> str:
    """A text whose sentences say the opposite: the first verb negated, or else the first word that has an antonym
    replaced by it; the same text where no sentence has either."""
    return _SENTENCE.sub(lambda match: _denied(match[0]), text)


def with_a_slip(text: str, draw: random.Random) -> str:
    """A text with a near number for its last one; the same text where it has none."""
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return text
    return text[: numbers[-1].start()] + next(near_numbers(numbers[-1][0], draw)) + text[numbers[-1].end() :]


def _denied(sentence: str) -> str:
    if match := _NEGATED.search(sentence):
        return sentence[: match.start()] + _negation(match) + sentence[match.end() :]
    for match in _WORD.finditer(sentence):
        if other := _ANTONYMS.get(match[0].casefold()):
            return sentence[: match.start()] + in_case_of(match[0], other) + sentence[match.end() :]
    return sentence

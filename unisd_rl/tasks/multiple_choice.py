"""Multiple choice: how a question is put, and which letter a completion states.

What counts is the last statement: what follows the last "Answer:" or "answer is", or else a last line that is a
letter and nothing more. A statement is a letter of the options that stands alone, whatever its case, brackets,
markdown or full width; or an option's text word for word. None is stated by "Answer: Because", by "Answer: A dog"
(an article, unless option A reads so), by a letter that no option has, or by two letters ("A or B").
"""

import random
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from string import ascii_uppercase

from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.task import normalized
from unisd_rl.types import Example, Message

_OPTIONS = "\nOptions:\n"
_INTRODUCTION = "Here is a question with several options, exactly one of which is right."
_FORM = (
    "Think it through in at most three short sentences. Then end with a line of its own that reads\n"
    "Answer: X\n"
    "where X is the letter of the right option. Write nothing after that line."
)

_MARKUP = re.compile(r"\\(?:boxed|text|textbf|mathbf|mathrm)\b|[*_`$~#>]")
_QUOTES = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")  # typographic ones
_LABEL = re.compile(r"\banswer(?:\s+is\b\s*:?|\s*[:=])", re.IGNORECASE)
_BEFORE, _AFTER = r"[\[({<\"']*", r"[\])}>\"'.:,;!]*"
_OPTION_LINE = re.compile(r"^\(?([A-Z])[.):]\)?[ \t]+(\S.*?)[ \t]*$", re.MULTILINE)
LABELLED = re.compile(r"\(?([A-Z])(?:[.):].*)?", re.DOTALL)
"""An answer that is an option's letter, with or without the option's text."""
_LETTER = re.compile(rf"(?:(?:option|choice|letter)\s+)?(?P<open>{_BEFORE})(?P<letter>[A-Z])(?!\w|'\w)", re.IGNORECASE)
_ALONE = re.compile(rf"{_BEFORE}([A-Z]){_AFTER}", re.IGNORECASE)
_REASON = re.compile(r"\s+(?:because|since|as|is)\b", re.IGNORECASE)
_SECOND = re.compile(
    rf"[\])}}>\"'.]*\s*(?:,|/|&|\+|\bor\b|\band\b)\s*(?:or\s+|and\s+)?{_BEFORE}(?P<letter>[A-Z])(?!\w|'\w)"
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its options in the order they are shown, and the position of the right one."""

    stem: str
    options: tuple[str, ...]
    right: int

    @property
    def text(self) -> str:
        """The question as it is put."""
        lines = (f"{letter}. {option}" for letter, option in zip(ascii_uppercase, self.options, strict=False))
        return self.stem + "\n" + _OPTIONS + "\n".join(lines)

    @property
    def answer(self) -> str:
        """The right option with its letter."""
        return f"{ascii_uppercase[self.right]}. {self.options[self.right]}"


def reshuffled(stem: str, options: Sequence[str], right: int, seed: int, name: str) -> Question:
    """The question with its options in an order drawn for it alone; each option becomes one line."""
    order = list(range(len(options)))
    random.Random(derive_seed(seed, "options", name)).shuffle(order)
    texts = tuple(" ".join(options[index].split()) for index in order)
    return Question(stem.strip(), texts, order.index(right))


def to_example(name: str, question: Question, rationale: str) -> Example:
    """An example whose demonstration is the rationale and the answer line."""
    return Example(name, question.text, solution(rationale, ascii_uppercase[question.right]), question.answer)


def solution(rationale: str, letter: str) -> str:
    """A rationale, which may be empty, and the answer line."""
    return f"{rationale.strip()}\nAnswer: {letter}".lstrip()


def options_of(example: Example) -> dict[str, str]:
    """The options a question lists, a line each, by letter: the last lines that read A, B, C, ... in order.

    The inverse of `Question.text`; of foreign records also `(A) option` and `A) option`.
    """
    options: dict[str, str] = {}
    for letter, text in _OPTION_LINE.findall(example.question):
        if letter == "A":
            options = {}
        if letter == chr(ord("A") + len(options)):
            options[letter] = text
    return options if len(options) > 1 else {}


def right_letter(example: Example) -> str | None:
    """The letter of the right option, from an answer such as `B`, `B. Paris` or `Paris`; None without options."""
    options, labelled = options_of(example), LABELLED.fullmatch(example.answer.strip())
    if labelled is not None and labelled[1] in options:
        return labelled[1]
    answer = normalized(example.answer)
    return next((letter for letter, text in options.items() if normalized(text) == answer), None)


@lru_cache(maxsize=1 << 14)
def right_option(example: Example) -> str | None:
    """The text of the right option; None for a problem without options."""
    letter = right_letter(example)
    return None if letter is None else options_of(example)[letter]


class MultipleChoice:
    """A task of multiple-choice questions, with the letter of the right option as the answer."""

    def __init__(self, train: Sequence[Example], evaluation: Sequence[Example]) -> None:
        self.train, self.evaluation = train, evaluation

    def student_messages(self, example: Example) -> tuple[Message, ...]:
        """Question, options, and the form of the answer."""
        return (Message("user", f"{_INTRODUCTION}\n\n{example.question}\n\n{_FORM}"),)

    def grade(self, completion: str, example: Example) -> bool:
        """Whether the stated option reads like the right one: some questions have the same text twice."""
        options = options_of(example)
        letter = stated_letter(completion, options)
        return letter is not None and options[letter] == example.answer[3:]

    def wrong_demonstrations(self, example: Example, seed: int) -> Iterator[str]:
        """The gold rationale with the letter of another option, in a seeded order."""
        letters = [letter for letter, text in options_of(example).items() if text != example.answer[3:]]
        random.Random(derive_seed(seed, "wrong", example.id)).shuffle(letters)
        rationale = example.demonstration.rpartition("Answer: ")[0]
        yield from (solution(rationale, letter) for letter in letters)


def stated_letter(completion: str, options: Mapping[str, str]) -> str | None:
    """The letter of `options` that a completion states last; None where it states none."""
    text = _MARKUP.sub("", unicodedata.normalize("NFKC", completion).translate(_QUOTES)).strip()
    labels = list(_LABEL.finditer(text))
    if labels:
        return _statement(text[labels[-1].end() :].strip(), options)
    alone = _ALONE.fullmatch(text.splitlines()[-1].strip()) if text else None
    return _known(alone[1], options) if alone else None


def _statement(text: str, options: Mapping[str, str]) -> str | None:
    line = text.split("\n", 1)[0].strip()
    match = _LETTER.match(line)
    if match is None:
        plain = _folded(line)
        return next((letter for letter, option in options.items() if plain and _folded(option) == plain), None)
    letter, tail = _known(match["letter"], options), line[match.end() :]
    if letter is None or _is_word(match, tail, options[letter]) or _names_another(tail, letter, options):
        return None
    return letter


def _is_word(match: re.Match[str], tail: str, option: str) -> bool:
    """Whether "a" or "I" is the article or the pronoun: a word follows that is neither a reason nor the option."""
    bare = match["letter"] in "AaIi" and not match["open"] and re.match(r"\s+\w", tail) is not None
    return bare and not _REASON.match(tail) and not _folded(tail).startswith(_folded(option))


def _names_another(tail: str, letter: str, options: Mapping[str, str]) -> bool:
    second = _SECOND.match(tail)
    return second is not None and second["letter"] in options and second["letter"] != letter


def _known(letter: str, options: Mapping[str, str]) -> str | None:
    return letter.upper() if letter.upper() in options else None


def _folded(text: str) -> str:
    return normalized(text).strip(" .,;:!\"'()[]")

"""Multiple choice: how a question is put, and which letter a completion states.

What counts is the last statement: what follows the last "Answer:" or "answer is", or else a last line that is a
letter and nothing more. A statement is a letter of the options that stands alone, whatever its case, brackets,
Markdown, LaTeX or full width; or an option's text word for word. None is stated by "Answer: Because", by "Answer: A
dog" (an article, unless an option reads so), by a letter that no option has, by two letters ("A or B"), or by a
letter in a formula ("B = 3", "B^2").
"""

import random
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from string import ascii_uppercase

from typing_extensions import override

from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.perturbation import denial_of, rationale_of, replaced, without_rationale
from unisd_rl.tasks.task import HasOptions, normalized
from unisd_rl.tasks.thinking import after_thinking
from unisd_rl.types import Example, Message

_OPTIONS = "\nOptions:\n"
_INTRODUCTION = "Here is a question with several options, exactly one of which is right."
_FORM = (
    "Think it through in at most three short sentences. Then end with a line of its own that reads\n"
    "Answer: X\n"
    "where X is the letter of the right option. Write nothing after that line."
)

_COMMAND = r"\\(?:boxed|[fhm]box|text\w*|math\w*|bf|rm|bm|boldsymbol|operatorname|displaystyle|left|right)\b"
_MARKUP = re.compile(rf"{_COMMAND}|\\{{1,2}}(?:[()\[\]{{}}]|(?=[%&]))|\\?[*_`$~#]|^[ \t]*>[> \t]*", re.MULTILINE)
_SPACE = re.compile(r"\\(?:[ ,;:!]|q?quad\b)")
_QUOTES = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")  # typographic ones
_LABEL = re.compile(r"\banswer\b[\]})]*(?:\s+is\b\s*:?|\s*[:=])", re.IGNORECASE)
_OPENERS = "[({<\"'"
_CLOSERS = "])}>\"'.:,;!"
_OPTION_LINE = re.compile(r"^\(?([A-Z])[.):]\)?[ \t]+(\S.*?)[ \t]*$", re.MULTILINE)
LABELLED = re.compile(r"\(?([A-Z])(?:[.):].*)?", re.DOTALL)
"""An answer that is an option's letter, with or without the option's text."""
MENTIONED = re.compile(
    rf"(?P<before>\b(?:answer|option|choice|letter)\b(?:\s+is\b)?(?:[\s:=\[({{*\"'$`]|\\{{1,2}}[(\[]|{_COMMAND})*)"
    r"(?P<letter>[A-Z])(?!\w)",
    re.IGNORECASE,
)
"""A letter that a text calls the answer, an option or a choice, anywhere in it."""
_LETTER = re.compile(
    rf"(?:(?:option|choice|letter)[\s{re.escape(_OPENERS)}]+)?(?P<letter>[A-Z])(?!\w|'\w)", re.IGNORECASE
)
_ALONE = re.compile(rf"[\s{re.escape(_OPENERS)}]*([A-Z])[\s{re.escape(_CLOSERS)}]*", re.IGNORECASE)
_REASON = re.compile(r"\s+(?:because|since|as|is)\b", re.IGNORECASE)
_FORMULA = re.compile(r"\s*(?:[=^]|\+\s*\w|/\s*\d|\\[a-z])|\s+[<>]=?\s", re.IGNORECASE)
_SECOND = re.compile(
    rf"[{re.escape(_CLOSERS)}]*\s*(?:"
    rf"(?:,|/|&|\+|\bor\b|\band\b)\s*(?:or\s+|and\s+)?[{re.escape(_OPENERS)}]*(?P<listed>[A-Z])(?!\w|'\w)"  # A or B
    rf"|[{re.escape(_OPENERS)}]+(?P<bracketed>[A-Z])[\])}}>]"  # (A)(B)
    r"|(?<=\s)(?P<bare>[A-Z])(?!\w|'\w|\s+[a-z]))"  # A B, but not "B A dog barks"
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


class ListedOptions(HasOptions):
    """What tasks have in common whose questions list options as lines."""

    @override
    def stated(self, completion: str, example: Example) -> str | None:
        return stated_letter(completion, options_of(example))

    @override
    def option_answers(self, example: Example) -> Mapping[str, str]:
        return {letter: solution("", letter) for letter in options_of(example)}

    @override
    def right_letters(self, example: Example) -> Collection[str]:
        return [letter for letter, text in options_of(example).items() if text == right_option(example)]


class MultipleChoice(ListedOptions):
    """A task of multiple-choice questions, with the letter of the right option as the answer."""

    def __init__(self, train: Sequence[Example], evaluation: Sequence[Example], grade_thinking: bool = True) -> None:
        self.train, self.evaluation, self._grade_thinking = train, evaluation, grade_thinking

    def student_messages(self, example: Example) -> tuple[Message, ...]:
        """Question, options, and the form of the answer."""
        return (Message("user", f"{_INTRODUCTION}\n\n{example.question}\n\n{_FORM}"),)

    @override
    def stated(self, completion: str, example: Example) -> str | None:
        said = completion if self._grade_thinking else after_thinking(completion)
        return None if said is None else super().stated(said, example)

    def grade(self, completion: str, example: Example) -> bool:
        """Whether the stated option reads like the right one: some questions have the same text twice."""
        options, letter = options_of(example), self.stated(completion, example)
        return letter is not None and options[letter] == example.answer[3:]

    def wrong_demonstrations(self, example: Example, seed: int) -> Iterator[str]:
        """The demonstration corrupted in favour of another option, in a seeded order (`other_options`)."""
        yield from other_options(example, random.Random(derive_seed(seed, "wrong", example.id)))


def other_options(example: Example, draw: random.Random) -> Iterator[str]:
    """The demonstration with each wrong option in the place of the right one and the other way round, in a drawn order.

    A rationale that names neither would still argue for the right option: it is denied, or left out for a sentence that
    asserts the wrong one. None where the question lists no options.
    """
    options, letter, gold = options_of(example), right_letter(example), example.demonstration
    rationale = rationale_of(gold)
    others = [other for other in options if letter is not None and options[other] != options[letter]]
    draw.shuffle(others)
    for other in others:
        assert letter is not None, "there are no others without a right one"
        right, wrong = options[letter], options[other]
        text = stated_letter_changed(replaced(gold, {right: wrong, wrong: right}), letter, other)
        yield without_rationale(text, rationale, denial_of(rationale), f"The option that fits is: {wrong}")


def stated_letter_changed(text: str, letter: str, other: str) -> str:
    """Every statement of `letter` ("Answer: B", "option (B)") made one of `other`, and a last line that is it alone."""
    swapped = MENTIONED.sub(
        lambda match: match["before"] + (other if match["letter"].upper() == letter else match["letter"]), text
    )
    return re.sub(rf"(?m)^(\W*){letter}(\W*)\Z", rf"\g<1>{other}\g<2>", swapped)


def stated_letter(completion: str, options: Mapping[str, str]) -> str | None:
    """The letter of `options` that a completion states last; None where it states none."""
    text = _plain(completion).strip()
    labels = list(_LABEL.finditer(text))
    if labels:
        return _statement(text[labels[-1].end() :], options)
    alone = _ALONE.fullmatch(text.splitlines()[-1]) if text else None
    return _known(alone[1], options) if alone else None


def _plain(text: str) -> str:
    """A text without the markup of Markdown and LaTeX; the braces that commands leave behind stay."""
    normal = unicodedata.normalize("NFKC", text).translate(_QUOTES)
    return _MARKUP.sub("", _SPACE.sub(" ", normal))


def _statement(text: str, options: Mapping[str, str]) -> str | None:
    """The option that is stated where `text` begins, what is behind the label."""
    line = text.lstrip(f" \t\r\n{_OPENERS}{_CLOSERS}").split("\n", 1)[0]
    if (named := _option_that_reads(line, options)) is not None:
        return named
    match = _LETTER.match(line)
    letter, tail = (_known(match["letter"], options), line[match.end() :]) if match else (None, "")
    if letter is None or _is_word(letter, tail, options[letter]) or _goes_on(letter, tail, options):
        return None
    return letter


def _option_that_reads(line: str, options: Mapping[str, str]) -> str | None:
    """The option whose text is the whole line; None where two different ones read so, or where it is a lone letter."""
    read = _folded(line)
    if not read or read.upper() in options:
        return None
    letters = [letter for letter, option in options.items() if _folded(option) == read]
    return letters[0] if len({options[letter] for letter in letters}) == 1 else None


def _is_word(letter: str, tail: str, option: str) -> bool:
    """Whether "a" or "I" is the article or the pronoun: a word follows that is neither a reason nor the option."""
    bare = letter in "AI" and re.match(r"\s+\w", tail) is not None
    return bare and not _REASON.match(tail) and not _folded(tail).startswith(_folded(option))


def _goes_on(letter: str, tail: str, options: Mapping[str, str]) -> bool:
    """Whether the letter is the first of several, or part of a formula ("B = 3", unless option B reads "3")."""
    if second := _SECOND.match(tail):
        other = second["listed"] or second["bracketed"] or second["bare"]
        return other in options and other != letter
    return _FORMULA.match(tail) is not None and _folded(tail.lstrip(" =")) != _folded(options[letter])


def _known(letter: str, options: Mapping[str, str]) -> str | None:
    return letter.upper() if letter.upper() in options else None


@lru_cache(maxsize=1 << 14)
def _folded(text: str) -> str:
    return normalized(_plain(text).replace("{", "").replace("}", "")).strip(" .,;:!\"'()[]<>")

"""Wrong demonstrations of negative views: proposed in one of five ways, and used only if the task's grader says wrong.

```
for attempt in 0, 1, ...:   problems without one --Candidates.propose--> texts --plausible?--> graded together
                                                          found wrong: kept; right or implausible: discarded, counted
```

Attempt by attempt for many problems at a time, so that a model, or a grader that runs programs, gets many at once.

Negatives written by the model: confident solutions that are mistaken, in the form of right ones.

Two ways, in turn. First the model is asked for one particular mistake, another each time: the argument for a wrong
option, one kind of bug, a call that differs in one respect, or a slip of the pen. Then it is asked nothing but the
problem: what it gets wrong by itself is the likeliest mistake of all. The grader tells.

Candidates with a planted bug, for a task whose demonstrations hold a Python program.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from unisd_rl.contexts.leakage import calls_in, functions_of, options_of, right_letter
from unisd_rl.contexts.templates import Chat, with_reference
from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.program_mutations import mutated_programs
from unisd_rl.types import Example

_LABEL = re.compile(r"\banswer\b\s*(?:is\b|[:=])", re.IGNORECASE)

GradeMany = Callable[[Sequence[tuple[str, Example]]], Sequence[bool]]
"""Whether each text states the right answer of its problem; in any order and in parallel, as the grader likes."""


class Candidates(Protocol):
    """A way to come by demonstrations that should be wrong."""

    def propose(self, examples: Sequence[Example], attempt: int) -> Sequence[str | None]:
        """Candidate number `attempt` (0, 1, ...) of each problem; None where there is none of that number."""
        ...


class PerExampleCandidates:
    """`Candidates` from a function that goes through one problem's candidates in order."""

    def __init__(self, candidates: Callable[[Example], Iterator[str]]) -> None:
        self._candidates = candidates

    def propose(self, examples: Sequence[Example], attempt: int) -> Sequence[str | None]:
        """See `Candidates.propose`."""
        return [next(islice(self._candidates(example), attempt, None), None) for example in examples]


@dataclass(frozen=True, slots=True)
class VerifiedNegative:
    """What became of the candidates of one problem: the wrong demonstration, if any, and how many were discarded.

    `right`: the grader found the right answer in them. `implausible`: empty (a written one that was cut, too), the gold
    solution itself, a text tried before, or without an answer of the problem's kind.
    """

    text: str | None = None
    right: int = 0
    implausible: int = 0


def verified_negatives(
    examples: Sequence[Example], candidates: Candidates, grade: GradeMany, attempts: int
) -> tuple[VerifiedNegative, ...]:
    """For each problem the first of at most `attempts` candidates that is plausible and graded wrong."""
    tried: list[list[str]] = [[] for _ in examples]
    found: list[str | None] = [None] * len(examples)
    right, implausible = [0] * len(examples), [0] * len(examples)
    for attempt in range(attempts):
        open_places = [place for place, text in enumerate(found) if text is None]
        if not open_places:
            break
        proposed = candidates.propose([examples[place] for place in open_places], attempt)
        to_grade = list[tuple[int, str]]()
        for place, text in zip(open_places, proposed, strict=True):
            if text is None:
                continue
            if text in tried[place] or not plausible(text, examples[place]):
                implausible[place] += 1
            else:
                tried[place].append(text)
                to_grade.append((place, text))
        verdicts = grade([(text, examples[place]) for place, text in to_grade]) if to_grade else ()
        for (place, text), is_right in zip(to_grade, verdicts, strict=True):
            right[place] += is_right
            found[place] = None if is_right else text
    return tuple(map(VerifiedNegative, found, right, implausible))


def plausible(text: str, example: Example) -> bool:
    """Whether a text could pass for a solution: it differs from the gold one and gives an answer of its kind.

    A text without any answer is graded wrong too, but says nothing that a student should be pushed from.
    """
    if not text.strip() or text.strip() == example.demonstration.strip():
        return False
    if _LABEL.search(example.demonstration) and not _LABEL.search(text):
        return False
    if calls_in(example.answer):
        return "{" in text
    if functions_of(example.demonstration):
        return bool(functions_of(text))
    return any(map(str.isdigit, text)) or not any(map(str.isdigit, example.answer))


Generate = Callable[[Sequence[Chat], str], Sequence[str | None]]
"""Lets the model answer chats: the texts, None for each that was too long or was cut. The name seeds the sampling."""

_PLAIN = (
    "Write a solution of the problem below that sounds sure of itself but is mistaken: {mistake}. Do not say that "
    "anything is wrong. Keep to the form that is asked for."
)
_SLIPS = (
    "make a slip in one step and carry it on to the end",
    "overlook one condition",
    "mix up two quantities",
    "stop one step too early",
)
_BUGS = (
    "one loop or index is off by one",
    "one operator or comparison is the wrong one",
    "one edge case is forgotten",
    "the wrong value is returned at the end",
)
_CALLS = (
    "call another function than the one that is needed",
    "give one argument a wrong value",
    "misread what is asked for",
    "make one call more than is needed",
)


class GeneratedCandidates:
    """`Candidates` (see `negative.py`) that the model writes."""

    def __init__(self, messages: Callable[[Example], Chat], write: Generate, seed: int) -> None:
        self._messages, self._write, self._seed = messages, write, seed

    def propose(self, examples: Sequence[Example], attempt: int) -> Sequence[str | None]:
        """See `Candidates.propose`."""
        texts = self._write([self._request(one, attempt) for one in examples], f"negatives {attempt}")
        return ["" if text is None else text.strip() for text in texts]  # "" is discarded, and counted

    def _request(self, example: Example, attempt: int) -> Chat:
        chat, (round_, bare) = self._messages(example), divmod(attempt, 2)
        return chat if bare else with_reference(chat, mistake_request(example, round_, self._seed))


def mistake_request(example: Example, number: int, seed: int) -> str:
    """What is asked for beside the problem, one mistake after the other in a seeded order."""
    draw = random.Random(derive_seed(seed, "mistake", example.id))
    right, options = right_letter(example), options_of(example)
    if right is not None:
        wrong = [letter for letter in options if options[letter] != options[right]]
        draw.shuffle(wrong)
        if wrong:
            letter = wrong[number % len(wrong)]
            return _PLAIN.format(
                mistake=f"argue in two to four sentences for {letter} ({options[letter]}), and answer {letter}"
            )
    kinds = list(_CALLS if calls_in(example.answer) else _BUGS if functions_of(example.demonstration) else _SLIPS)
    draw.shuffle(kinds)
    return _PLAIN.format(mistake=kinds[number % len(kinds)])


_FENCE = re.compile(r"^[ \t]*```[\w+-]*[ \t]*\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)


def mutation_candidates(example: Example, seed: int) -> Iterator[str]:
    """The demonstration with one bug in the last of its programs; the four kinds in turn, in a seeded order.

    Some bugs change nothing that a test sees: grade them. A demonstration without a Python program gives none.
    """
    blocks = list(_FENCE.finditer(example.demonstration))
    start, end = blocks[-1].span(1) if blocks else (0, len(example.demonstration))
    before, program, after = (
        example.demonstration[:start],
        example.demonstration[start:end],
        example.demonstration[end:],
    )
    for buggy in mutated_programs(program, derive_seed(seed, "bugs", example.id)):
        yield before + buggy + after

"""Wrong demonstrations of negative views: proposed in one of five ways, and used only if the task's grader says wrong.

```
for attempt in 0, 1, ...:   problems without one --Candidates.propose--> texts --plausible?--> graded together
                                                          found wrong: kept; right or implausible: discarded, counted
```

Attempt by attempt for many problems at a time, so that a model, or a grader that runs programs, gets many at once.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from unisd_rl.contexts.leakage import calls_in, functions_of
from unisd_rl.types import Example

_LABEL = re.compile(r"\banswer\b\s*(?:is\b|[:=])", re.IGNORECASE)

GradeMany = Callable[[Sequence[tuple[str, Example]]], Sequence[bool]]
"""Whether each text states the right answer of its problem; in any order and in parallel, as the grader likes."""


class Candidates(Protocol):
    """A way to come by demonstrations that should be wrong."""

    def propose(self, examples: Sequence[Example], attempt: int) -> Sequence[str | None]:
        """Candidate number `attempt` (0, 1, ...) of each problem; None where there is none of that number."""
        ...


class FromEach:
    """`Candidates` from a function that goes through one problem's candidates in order."""

    def __init__(self, candidates: Callable[[Example], Iterator[str]]) -> None:
        self._candidates = candidates

    def propose(self, examples: Sequence[Example], attempt: int) -> Sequence[str | None]:
        """See `Candidates.propose`."""
        return [next(islice(self._candidates(example), attempt, None), None) for example in examples]


@dataclass(frozen=True, slots=True)
class Verified:
    """What became of the candidates of one problem: the wrong demonstration, if any, and how many were discarded.

    `right`: the grader found the right answer in them. `implausible`: empty (a written one that was cut, too), the gold
    solution itself, a text tried before, or without an answer of the problem's kind.
    """

    text: str | None = None
    right: int = 0
    implausible: int = 0


def verified_wrong(
    examples: Sequence[Example], candidates: Candidates, grade: GradeMany, attempts: int
) -> tuple[Verified, ...]:
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
    return tuple(map(Verified, found, right, implausible))


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

"""Negative contexts: wrong demonstrations, proposed in one of five ways, used only if the task's grader says wrong.

```
for attempt in 0, 1, ...:   problems without one --Candidates.propose--> texts --plausible?--> graded together
                                                          graded wrong: kept; right or implausible: discarded, counted
```

Attempt by attempt for many problems at a time, so that a model, or a grader that runs programs, gets many at once.

Three of the five ways are here: the model's own mistakes, mutations of a right program, and lexical perturbations. The
others are the task's own `wrong_demonstrations` and `unisd_rl/tasks/corruption.py`.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from typing_extensions import override

from unisd_rl.contexts.templates import Chat, with_reference
from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.calls import calls_in
from unisd_rl.tasks.multiple_choice import options_of, right_letter, stated_letter_changed
from unisd_rl.tasks.perturbation import changeable_places, changed_at, rationale_of
from unisd_rl.tasks.programs import functions_of, mutated_demonstrations
from unisd_rl.tasks.task import normalized
from unisd_rl.types import Example

_LABEL = re.compile(r"\banswer\b\s*(?:is\b|[:=])", re.IGNORECASE)
_SHORTEST_RATIONALE = 12  # characters; what is shorter may stand in any text
_PERTURBED = 64  # candidates at most

GradeMany = Callable[[Sequence[tuple[str, Example]]], Sequence[bool]]
"""Whether each text states the right answer of its problem; in any order and in parallel, as the grader likes."""


class Candidates(Protocol):
    """A source of demonstrations that should be wrong."""

    def propose(self, examples: Sequence[Example], attempt: int) -> Sequence[str | None]:
        """Candidate number `attempt` (0, 1, ...) of each problem; None where there is none of that number."""
        ...


class PerExampleCandidates(Candidates):
    """Candidates from a function that goes through one problem's candidates in order."""

    def __init__(self, candidates: Callable[[Example], Iterator[str]]) -> None:
        self._candidates = candidates

    @override
    def propose(self, examples: Sequence[Example], attempt: int) -> Sequence[str | None]:
        return [next(islice(self._candidates(example), attempt, None), None) for example in examples]


@dataclass(frozen=True, slots=True)
class VerifiedNegative:
    """What became of the candidates of one problem: the wrong demonstration, if any, and how many were discarded.

    `right`: the grader found the right answer in them. `implausible`: empty (a generated one that was cut, too), the
    gold solution itself, a text tried before, or without an answer of the problem's kind.
    """

    text: str | None = None
    right: int = 0
    implausible: int = 0


def verified_negatives(
    examples: Sequence[Example], candidates: Candidates, grade: GradeMany, attempts: int
) -> tuple[VerifiedNegative, ...]:
    """For each problem the first of at most `attempts` candidates that is plausible and graded wrong."""
    tried: list[set[str]] = [set() for _ in examples]
    negatives: list[str | None] = [None] * len(examples)
    right, implausible = [0] * len(examples), [0] * len(examples)
    for attempt in range(attempts):
        unsolved = [index for index, negative in enumerate(negatives) if negative is None]
        if not unsolved:
            break
        texts = candidates.propose([examples[index] for index in unsolved], attempt)
        to_grade = list[tuple[int, str]]()
        for index, text in zip(unsolved, texts, strict=True):
            if text is None:
                continue
            if text in tried[index] or not plausible(text, examples[index]):
                implausible[index] += 1
            else:
                tried[index].add(text)
                to_grade.append((index, text))
        verdicts = grade([(text, examples[index]) for index, text in to_grade]) if to_grade else ()
        for (index, text), is_right in zip(to_grade, verdicts, strict=True):
            right[index] += is_right
            negatives[index] = None if is_right else text
    return tuple(map(VerifiedNegative, negatives, right, implausible))


def plausible(text: str, example: Example) -> bool:
    """Whether a text could pass for a wrong solution: it differs from the gold one and gives an answer of its kind.

    A text without any answer is graded wrong too, but says nothing that a student should be pushed from; the gold
    rationale with another answer below it goes on arguing for the right one.
    """
    if not text.strip() or text.strip() == example.demonstration.strip() or _holds_rationale(text, example):
        return False
    if _LABEL.search(example.demonstration) and not _LABEL.search(text):
        return False
    if calls_in(example.answer):
        return "{" in text
    if functions_of(example.demonstration):
        return bool(functions_of(text))
    return any(map(str.isdigit, text)) or not any(map(str.isdigit, example.answer))


def _holds_rationale(text: str, example: Example) -> bool:
    """Whether the gold rationale stands in a text, word for word; programs and tool calls have none."""
    if calls_in(example.answer) or functions_of(example.demonstration):
        return False
    rationale = normalized(rationale_of(example.demonstration))
    return len(rationale) >= _SHORTEST_RATIONALE and rationale in normalized(text)


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
_PROGRAM_MISTAKES = (
    "one loop or index is off by one",
    "one operator or comparison is the wrong one",
    "one edge case is forgotten",
    "the wrong value is returned at the end",
)
_CALL_MISTAKES = (
    "call another function than the one that is needed",
    "give one argument a wrong value",
    "misread what is asked for",
    "make one call more than is needed",
)


class GeneratedCandidates(Candidates):
    """Confident solutions by the model that are mistaken, in the form of right ones; two ways in turn.

    First the model is asked for one particular mistake, another each time: the argument for a wrong option, one kind
    of bug, a call that differs in one respect, or a slip of the pen. Then it is asked nothing but the problem: what it
    gets wrong by itself is the likeliest mistake of all. The grader tells.
    """

    def __init__(self, messages: Callable[[Example], Chat], generate: Generate, seed: int) -> None:
        self._messages, self._generate, self._seed = messages, generate, seed

    @override
    def propose(self, examples: Sequence[Example], attempt: int) -> Sequence[str | None]:
        texts = self._generate([self._request(example, attempt) for example in examples], f"negatives {attempt}")
        return ["" if text is None else text.strip() for text in texts]  # "" is discarded, and counted

    def _request(self, example: Example, attempt: int) -> Chat:
        chat, (number, bare) = self._messages(example), divmod(attempt, 2)
        return chat if bare else with_reference(chat, mistake_request(example, number, self._seed))


def mistake_request(example: Example, number: int, seed: int) -> str:
    """What is asked for beside the problem, one mistake after the other in a seeded order."""
    draw = random.Random(derive_seed(seed, "mistake", example.id))
    right, options = right_letter(example), options_of(example)
    wrong = [letter for letter in options if right is not None and options[letter] != options[right]]
    if wrong:
        draw.shuffle(wrong)
        letter = wrong[number % len(wrong)]
        mistake = f"argue in two to four sentences for {letter} ({options[letter]}), and answer {letter}"
    else:
        is_program = bool(functions_of(example.demonstration))
        kinds = list(_CALL_MISTAKES if calls_in(example.answer) else _PROGRAM_MISTAKES if is_program else _SLIPS)
        draw.shuffle(kinds)
        mistake = kinds[number % len(kinds)]
    return _PLAIN.format(mistake=mistake)


def mutation_candidates(example: Example, seed: int) -> Iterator[str]:
    """The demonstration with one mutation in the last of its programs; the four kinds in turn, in a seeded order."""
    # "bugs" is part of the seed: another word would draw other mutations.
    return mutated_demonstrations(example.demonstration, derive_seed(seed, "bugs", example.id))


def perturbed_candidates(example: Example, seed: int) -> Iterator[str]:
    """Perturbed demonstrations in a seeded order, no two the same; none where no word is in the table.

    The first change one place, later ones more. A synonym seldom makes an answer wrong: what the stated answer is made
    of, a number or an option's letter, is a word too and may change like others.
    """
    text = example.demonstration
    places = changeable_places(text)
    letters = [letter for letter in options_of(example) if letter != right_letter(example)]
    draw, seen = random.Random(derive_seed(seed, "perturbation", example.id)), {text}
    for number in range(_PERTURBED if places else 0):
        changed = changed_at(text, draw.sample(places, min(len(places), 1 + number)), draw)
        if letters and draw.random() < 0.5:
            changed = stated_letter_changed(changed, right_letter(example) or "", draw.choice(letters))
        if changed not in seen:
            seen.add(changed)
            yield changed

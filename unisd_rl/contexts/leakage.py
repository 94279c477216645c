"""Answer leakage: whether a text contains a problem's answer. No auxiliary view may contain its own problem's.

A problem's answer is what it says, not how it is labelled. Tasks whose answers are tool calls or programs know it
themselves (`tasks.task.LeakAware`); for all others it is told from the example:

| the answer | a text contains it where |
|---|---|
| an option: the question lists `X. option` lines, and the answer is a letter or a text of them | its text stands |
| a letter without options | it is stated: `answer: B` |
| anything else, numbers too | it stands, word for word (`7` is neither in `78` nor in `x7`) |

Case, white space and the punctuation around an answer do not count. A letter alone is no answer where options are
listed: in a solved example it names one of *that* question's options. Leaving out every example with the same letter
would even tell which letter it is not. In an instruction, which has no options of its own, a letter that is stated
counts too (`instruction_leaks`).
"""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice

from unisd_rl.tasks.multiple_choice import LABELLED, MENTIONED, right_option
from unisd_rl.tasks.task import LeakAware, Task, normalized
from unisd_rl.types import Example

LeakDetector = Callable[[str, Example], bool]
"""Whether a text contains an example's answer."""


def leak_detector(task: Task) -> LeakDetector:
    """What the task says itself, or else the general rule."""
    return task.leaks if isinstance(task, LeakAware) else contains_answer


def contains_answer(text: str, example: Example) -> bool:
    """The general rule: whether a text contains an example's answer in the sense of the table above."""
    option, answer = right_option(example), example.answer.strip()
    if option is None and re.fullmatch("[A-Za-z]", answer):
        return _states_letter(text, answer)
    return _phrase(answer if option is None else option).search(normalized(text)) is not None


def leaks_answer(donor: Example, example: Example, leaks: LeakDetector) -> bool:
    """Whether a solved example must not be shown beside a problem: it is that problem, or contains its answer."""
    return (
        donor.id == example.id
        or normalized(donor.question) == normalized(example.question)
        or (right_option(example) is None and normalized(donor.answer) == normalized(example.answer))
        or leaks(f"{donor.question}\n{donor.demonstration}", example)
    )


def non_leaking_examples(
    example: Example, candidates: Iterable[Example], count: int, leaks: LeakDetector
) -> tuple[Example, ...]:
    """The first `count` candidates that do not contain the problem's answer, no two with the same question."""

    def distinct() -> Iterator[Example]:
        seen = set[str]()
        for donor in candidates:
            if donor.question not in seen and not leaks_answer(donor, example, leaks):
                seen.add(donor.question)
                yield donor

    return tuple(islice(distinct(), count))


def instruction_leaks(text: str, example: Example, leaks: LeakDetector) -> bool:
    """Whether an instruction contains the answer, or states the right option's letter."""
    letter = LABELLED.fullmatch(example.answer.strip())
    return leaks(text, example) or (letter is not None and _states_letter(text, letter[1]))


@lru_cache(maxsize=1 << 14)
def _phrase(answer: str) -> re.Pattern[str]:
    folded = normalized(answer)
    content = folded.strip(" .,;:!?\"'`()[]{}*") or folded
    first, last = (r"(?<!\w)" if content[0].isalnum() else "", r"(?!\w)" if content[-1].isalnum() else "")
    return re.compile(f"{first}{re.escape(content)}{last}")


def _states_letter(text: str, letter: str) -> bool:
    return any(match["letter"].upper() == letter.upper() for match in MENTIONED.finditer(text))

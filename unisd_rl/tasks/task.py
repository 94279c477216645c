"""The interface of a task: examples, what the student reads, and a grade; and the checks of a task that was loaded.

A task knows nothing of teachers, tokens or models. `unisd_rl/contexts` turns its examples into views, an evaluation
grades completions with it; both rely on the same `grade`.

The checks are the same whoever made the task. Grades and likelihoods are kept by a problem's id, views change the last
turn of its chat, and teachers read its worked solution as right: where that does not hold, a run trains on something
else, and no loss curve shows it.
"""

import hashlib
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from itertools import chain, islice
from typing import Protocol, runtime_checkable

from unisd_rl.cluster.cores import available_cores
from unisd_rl.errors import UserError
from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.own_code import of_own_code
from unisd_rl.tasks.source_records import half_of_a_pair, print_once
from unisd_rl.types import Example, Message


class Task(Protocol):
    """A set of problems with worked solutions and reference answers. Training and held-out problems are disjoint.

    Benchmarks that are for evaluation only have no training problems. `grade` may be called from several threads.
    """

    @property
    def train(self) -> Sequence[Example]:
        """Problems to train on; also the pool of solved examples for auxiliary views."""
        ...

    @property
    def evaluation(self) -> Sequence[Example]:
        """Held-out problems, never trained on."""
        ...

    def student_messages(self, example: Example) -> tuple[Message, ...]:
        """What the student reads: a chat that ends with a user turn, or with what a tool returned to the assistant
        after one, and holds no part of the solution."""
        ...

    def grade(self, completion: str, example: Example) -> bool:
        """Whether the completion states the right answer; any text is a possible completion.

        Raises:
            SandboxError: what runs programs failed itself, so there is no grade. Nothing else is raised.
        """
        ...

    def wrong_demonstrations(self, example: Example, seed: int) -> Iterator[str]:
        """Candidate demonstrations that should be wrong, best first; the caller verifies each with `grade`."""
        ...


@runtime_checkable
class LeakAware(Protocol):
    """A task that says itself which texts give an answer away. For others the general rule of `contexts.leakage` holds:
    a text leaks an answer that stands in it word for word."""

    def leaks(self, text: str, example: Example) -> bool:
        """Whether the text contains the example's answer; it must not stand in an auxiliary view of that example."""
        ...


@runtime_checkable
class StatesAnswers(Protocol):
    """A task that says which answer a completion states, right or wrong. How many state none tells a form that was
    missed from a lack of knowledge."""

    def stated(self, completion: str, example: Example) -> str | None:
        """The answer that a completion states; None where it states none."""
        ...


@runtime_checkable
class HasOptions(StatesAnswers, Protocol):
    """A task of multiple choice, whose answers are letters of options."""

    def option_answers(self, example: Example) -> Mapping[str, str]:
        """Of each option's letter the shortest completion that states it."""
        ...

    def right_letters(self, example: Example) -> Collection[str]:
        """The letters of the right option; several where options read the same."""
        ...


def grade_all(task: Task, answers: Iterable[tuple[str, Example]]) -> list[bool]:
    """Whether each completion is right, in order; where grading runs programs, one on every core.

    Raises:
        SandboxError: the sandbox failed, so there are no grades.
    """
    with ThreadPoolExecutor(max_workers=len(available_cores())) as threads:
        return list(threads.map(lambda answer: task.grade(*answer), answers))


@lru_cache(maxsize=1 << 16)
def normalized(text: str) -> str:
    """The text without regard to case and white space."""
    return " ".join(text.split()).casefold()


def is_held_out(problem: str) -> bool:
    """Whether a drawn problem is one of those kept from training, one in five: by a hash of its text, not by a seed."""
    return hashlib.blake2b(problem.encode(), digest_size=2).digest()[0] % 5 == 0


_ATTEMPTS = 16


def with_wrong_demonstrations(task: Task, share: float, seed: int) -> tuple[Example, ...]:
    """A task's training problems, with a share of the demonstrations replaced by ones graded wrong: a noisy teacher.

    The reference answers stay right. Which examples are replaced is drawn with the seed: exactly the rounded share.
    """
    draw = random.Random(derive_seed(seed, "wrong demonstrations"))
    replaced = set(draw.sample(range(len(task.train)), round(share * len(task.train))))

    def wrong(example: Example) -> Example:
        for text in islice(task.wrong_demonstrations(example, derive_seed(seed, "noise")), _ATTEMPTS):
            if not task.grade(text, example):
                return replace(example, demonstration=text)
        raise AssertionError(f"no wrong demonstration for {example.id}")

    return tuple(wrong(example) if index in replaced else example for index, example in enumerate(task.train))


_PARTS = ("id", "question", "demonstration", "answer")
_LEAST_RIGHT = 0.05  # of the worked solutions; with fewer the grader and they are not of one task


def check_problems(task: Task, origin: str) -> None:
    """Check the form of every problem, its chat, and that no two problems of a split have one id.

    Raises:
        UserError: one of them is not as it must be; the sentence opens with `origin`.
    """
    for split, examples in (("training", task.train), ("held-out", task.evaluation)):
        seen = set[str]()
        for number, example in enumerate(examples):
            _check_form(example, f"{origin}: {split} problem {number}")
            if example.id in seen:
                raise UserError(
                    f"{origin}: the id {example.id!r} occurs twice among the {split} problems; give each its own"
                )
            seen.add(example.id)
            chat = of_own_code(origin, f"student_messages of {example.id!r}", task.student_messages, example)
            _check_chat(chat, f"{origin}: student_messages of problem {example.id!r}")


def check_gold(task: Task, origin: str, most: int) -> None:
    """Let the task's grader read its own worked solutions: at most `most`, evenly spread over training and held-out
    problems. Those that it finds wrong are named on stderr, with an example.

    Raises:
        UserError: it finds nearly all of them wrong, so that neither they nor the accuracy would mean anything.
        SandboxError: the sandbox failed.
    """
    places = [
        place for place, example in enumerate(chain(task.train, task.evaluation)) if example.demonstration.strip()
    ]
    count = len(task.train)
    read = [
        task.train[place] if place < count else task.evaluation[place - count]
        for place in places[:: max(1, -(-len(places) // most))]
    ]
    answers = [(example.demonstration, example) for example in read]
    right = of_own_code(origin, "grade of a worked solution", grade_all, task, answers)
    wrong = [example for example, is_right in zip(read, right, strict=True) if not is_right]
    if not wrong:
        return
    found = (
        f"{origin}: its grader finds {len(wrong)} of {len(read)} worked solutions wrong, first that of problem "
        f"{wrong[0].id!r}, which ends {wrong[0].demonstration.rstrip()[-40:]!r} where the answer is "
        f"{wrong[0].answer!r:.40}"
    )
    if len(read) - len(wrong) < _LEAST_RIGHT * len(read):
        raise UserError(f"{found}; each must end as a right completion ends (docs/own_data.md)")
    print_once(found)


def describe_overlap(task: Task) -> str | None:
    """How many held-out problems the student reads in the words of a training problem (case and white space apart), and
    the first by name; None where none is. Benchmarks have such problems too."""
    asked = {example.id: _asked(task, example) for example in task.evaluation}
    wanted = set(asked.values())
    trained = {words: example.id for example in task.train if (words := _asked(task, example)) in wanted}
    both = [(name, trained[words]) for name, words in asked.items() if words in trained]
    if not both:
        return None
    (held_out, training), count = both[0], len(both)
    return (
        f"{count:,} of {len(task.evaluation):,} held-out problems {'is' if count == 1 else 'are'} among the training "
        f"problems too, first {held_out!r} as {training!r}: accuracy counts what was trained on"
    )


def _asked(task: Task, example: Example) -> tuple[str, ...]:
    # Past the cache of `normalized`, which would keep these texts.
    return tuple(normalized.__wrapped__(" ".join(turn.texts[1:])) for turn in task.student_messages(example))


def _check_form(example: Example, name: str) -> None:
    for part in _PARTS:
        text = getattr(example, part, None)
        if not isinstance(text, str):
            raise UserError(f"{name}: its {part} must be text, but it is {text!r:.80}")
        if half := half_of_a_pair(text):
            raise UserError(f"{name}: its {part} holds {half!r}, half of a surrogate pair, which is no character")


def _check_chat(chat: Sequence[Message], name: str) -> None:
    whole = isinstance(chat, tuple | list) and all(isinstance(turn, Message) for turn in chat)
    if not whole or not all(isinstance(turn.content, str) for turn in chat):
        raise UserError(f"{name} must be a tuple of Message with text, but it is {chat!r:.80}")
    asked = bool(chat) and (chat[-1].role == "user" or (chat[-1].role == "tool" and "user" in (t.role for t in chat)))
    if not asked:
        last = repr(chat[-1].role) if chat else "none"
        raise UserError(f"{name} must end with a turn of 'user' (or of 'tool', after one), but its last turn is {last}")
    if half := half_of_a_pair([text for turn in chat for text in turn.texts]):
        raise UserError(f"{name} holds {half!r}, half of a surrogate pair, which is no character")

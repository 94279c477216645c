"""One example becomes a prompt: the student's messages and every view the configuration asks for."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from unisd_rl.config import ContextsConfig
from unisd_rl.contexts.auxiliary import random_donors
from unisd_rl.contexts.negative import wrong_demonstration
from unisd_rl.contexts.templates import Chat, with_demonstration, with_other_example
from unisd_rl.seeds import derive_seed
from unisd_rl.types import Example, Message, Prompt, View, ViewKind


class Problems(Protocol):
    """The part of a task that contexts need; every `Task` has it."""

    @property
    def train(self) -> Sequence[Example]:
        """The pool of donors."""
        ...

    def student_messages(self, example: Example) -> tuple[Message, ...]:
        """What the student reads."""
        ...

    def grade(self, completion: str, example: Example) -> bool:
        """Whether a text states the right answer."""
        ...

    def wrong_demonstrations(self, example: Example, seed: int) -> Iterator[str]:
        """Candidates for the negative view."""
        ...


def prompt_for(task: Problems, example: Example, config: ContextsConfig, seed: int) -> Prompt:
    """The prompt of an example: primary view first, then K auxiliary ones, then the negative one.

    A pure function: contexts depend on the seed and the example, not on when or how often it is trained on.
    A problem without a verified wrong demonstration gets no negative view.

    Raises:
        UserError: if there are too few donors.
    """
    chat = task.student_messages(example)
    views = [View(ViewKind.PRIMARY, with_demonstration(chat, example.demonstration))]
    views += _auxiliary(task, example, chat, config, seed)
    views += _negative(task, example, chat, config, seed)
    return Prompt(example.id, chat, tuple(views))


def _auxiliary(task: Problems, example: Example, chat: Chat, config: ContextsConfig, seed: int) -> list[View]:
    if config.auxiliary is None:
        return []
    donors = random_donors(example, task.train, config.auxiliary.views, derive_seed(seed, "donors", example.id))
    chats = (with_other_example(chat, donor.question, donor.demonstration) for donor in donors)
    return [View(ViewKind.AUXILIARY, messages) for messages in chats]


def _negative(task: Problems, example: Example, chat: Chat, config: ContextsConfig, seed: int) -> list[View]:
    if config.negative is None:
        return []
    candidates = task.wrong_demonstrations(example, seed)
    wrong = wrong_demonstration(example, candidates, task.grade, config.negative.attempts)
    return [] if wrong is None else [View(ViewKind.NEGATIVE, with_demonstration(chat, wrong))]

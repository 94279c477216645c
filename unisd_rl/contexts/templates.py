"""Templates: the words around what a teacher reads, the same for every task.

Each template changes only the last user turn of the student's chat, so that a system turn, an earlier
conversation and what tools returned stay as they are. The negative view is the primary template with another
demonstration: the two are equal byte for byte but for that text.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from unisd_rl.config.contexts import ContextOrder
from unisd_rl.types import Message

Chat = tuple[Message, ...]


def with_demonstration(chat: Chat, demonstration: str) -> Chat:
    """Primary and negative view: the prompt, a worked response to it, and a request for an own answer."""
    return _last_turn(chat, "", f"\n\nWorked response:\n{demonstration}\n\nNow give your own answer.")


def with_reference(chat: Chat, reference: str) -> Chat:
    """Auxiliary view: a reference (`other_example` or `advice`), a separator, then the prompt.

    What is asked of a model that writes a solution stands in the same place.
    """
    return _last_turn(chat, f"{reference}\n\n---\n\n", "")


def with_reference_below(chat: Chat, reference: str) -> Chat:
    """Auxiliary view that begins as the prompt does: the prompt, a reference between separators, a closing line."""
    return _last_turn(chat, "", f"\n\n---\n\n{reference}\n\n---\n\nNow answer the problem at the top.")


AUXILIARY_TEMPLATES: Mapping[ContextOrder, Callable[[Chat, str], Chat]] = {
    "reference_first": with_reference,
    "question_first": with_reference_below,
}
"""The template of auxiliary views, by `contexts.order`."""


def with_other_example(chat: Chat, question: str, demonstration: str) -> Chat:
    """The auxiliary view with `other_example`."""
    return with_reference(chat, other_example(question, demonstration))


def other_example(question: str, demonstration: str) -> str:
    """A reference: the solved example of another problem, marked as such."""
    return f"Another problem, for reference only:\n{question}\n{demonstration}"


def advice(instruction: str) -> str:
    """A reference: general advice."""
    return f"Advice for problems of this kind:\n{instruction}"


def _last_turn(chat: Chat, before: str, after: str) -> Chat:
    last = max(index for index, turn in enumerate(chat) if turn.role == "user")
    turn = replace(chat[last], content=f"{before}{chat[last].content}{after}")
    return (*chat[:last], turn, *chat[last + 1 :])

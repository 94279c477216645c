"""The interface of a generator of contexts: the model as a writer of instructions and of wrong demonstrations.

`driver.context_generation` has the one that runs rollout actors.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from unisd_rl.config.contexts import GeneratedConfig
from unisd_rl.contexts.templates import Chat


class ContextGenerator(Protocol):
    """A model that answers chats."""

    def generate(self, chats: Sequence[Chat], settings: GeneratedConfig, seed: int) -> list[str | None]:
        """Texts in order; None for a request longer than `settings` allows, and for an answer that was cut."""
        ...


OpenGenerator = Callable[[], AbstractContextManager[ContextGenerator]]
"""Starts a generator for the time of a block."""

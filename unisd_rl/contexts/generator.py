"""TODO."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from unisd_rl.config import Config
from unisd_rl.config.contexts import GeneratedNegative, InductionAuxiliary
from unisd_rl.contexts.templates import Chat

GeneratedConfig = InductionAuxiliary | GeneratedNegative

MARGIN = 256  # tokens that a request may be longer than a prompt, where nothing else is said


class ContextGenerator(Protocol):
    """Something that answers chats."""

    def generate(self, chats: Sequence[Chat], settings: GeneratedConfig, seed: int) -> list[str | None]:
        """Texts in order; None for a request longer than `settings` allows, and for an answer that was cut."""
        ...


OpenGenerator = Callable[[], AbstractContextManager[ContextGenerator]]


def generated_configs(config: Config) -> list[GeneratedConfig]:
    """The contexts that some term reads and the model writes."""
    read = config.contexts_read
    return [section for section in (read.auxiliary, read.negative) if isinstance(section, GeneratedConfig)]


def longest_request(config: Config, settings: GeneratedConfig) -> int:
    """Tokens of the longest request that is made."""
    return settings.max_prompt_tokens or config.rollout.max_prompt_tokens + MARGIN

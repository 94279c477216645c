"""One prepared problem as it is kept: its contexts, what was discarded on the way, and how long its prompts are."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

from unisd_rl.contexts.cache import Row
from unisd_rl.contexts.views import Contexts
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.types import Prompt


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of the longest of a prompt and its views; of the gold completion, 0 without one."""

    prompt: int
    gold: int


Measure = Callable[[Prompt], Lengths]


@dataclass(frozen=True, slots=True)
class PreparedRow:
    """`right` and `implausible` candidates for the wrong demonstration were discarded. Lengths, not verdicts: a limit
    may change and the row stays."""

    id: str
    contexts: Contexts
    right: int
    implausible: int
    lengths: Lengths

    def to_json(self) -> Row:
        """As a segment holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Row) -> "PreparedRow":
        """The inverse of `to_json`."""
        contexts = Contexts(tuple(row["contexts"]["auxiliary"]), row["contexts"]["negative"])
        return cls(row["id"], contexts, row["right"], row["implausible"], Lengths(**row["lengths"]))


def measure_with(tokenizer: ChatTokenizer) -> Measure:
    """Lengths by this tokenizer and its chat template."""

    def measure(prompt: Prompt) -> Lengths:
        chats = (prompt.messages, *(view.messages for view in prompt.views))
        gold = 0 if prompt.gold is None else len(tokenizer.encode_completion(prompt.gold))
        return Lengths(max(len(tokenizer.encode(chat)) for chat in chats), gold)

    return measure

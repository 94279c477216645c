"""What a model's embeddings bound: how many tokens it knows, and how many positions a sequence may have.

A tokenizer may know more tokens than the model, and a prompt may be longer than it. Engines do not agree on what
happens then (one reads a row of padding, one dies), so both are checked before anything is generated.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unisd_rl.errors import UserError
from unisd_rl.models.load import read_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_STRETCHED = ("linear", "dynamic")  # other kinds of RoPE scaling state positions that are stretched already


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """Of one model; None where its configuration names no limit."""

    model_path: Path
    vocabulary: int | None
    """Rows of the embedding."""
    positions: int | None
    """Longest sequence, RoPE scaling included."""

    def check_prompts(self, what: str, tokens: int, max_completion_tokens: int) -> None:
        """Raise `UserError` if there is no position for each of the `tokens` of a prompt and of the longest answer."""
        self.check_positions(
            f"{what} of {tokens} tokens and rollout.max_completion_tokens = {max_completion_tokens}",
            tokens + max_completion_tokens,
            "lower rollout.max_completion_tokens or rollout.max_prompt_tokens, or shorten the records",
        )

    def check_positions(self, what: str, tokens: int, remedy: str) -> None:
        """Raise `UserError` if there is no position for each of the `tokens` that `what` has."""
        if self.positions is not None and tokens > self.positions:
            raise UserError(
                f"{what} are more than the {self.positions} positions of model.path = {self.model_path}: {remedy}"
            )


def model_limits(model_path: Path) -> ModelLimits:
    """As the configuration of a folder or hub name says; without limits where transformers cannot read it."""
    try:
        text = read_config(model_path).get_text_config()
    except UserError:  # whoever loads the model says what is wrong with it
        return ModelLimits(model_path, None, None)
    return ModelLimits(model_path, getattr(text, "vocab_size", None), _positions(text))


def _positions(config: "PreTrainedConfig") -> int | None:
    most = getattr(config, "max_position_embeddings", None)
    if not most or most < 0:
        return None
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]  # one for each kind of layer, or one
    factors = [kind.get("factor") or 1.0 for kind in kinds if kind.get("rope_type") in _STRETCHED]
    # Gemma 3 states positions that are stretched, beside a linear factor.
    return int(most * max(factors, default=1.0)) if "gemma3" not in config.model_type else most

"""Whether a model can be trained, as far as its small files tell: asked before any process starts.

And what its embeddings bound: how many tokens it knows, and how many positions a sequence may have. A tokenizer may
know more tokens than the model, and a prompt may be longer than it; engines do not agree on what happens then (one
reads a row of padding, one dies), so both are checked before anything is generated.

No weight is read: the model is built without memory, from its configuration. What only the weights show is found by
the learner when it loads them (learner/model.py).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unisd_rl.config import Config
from unisd_rl.errors import UserError
from unisd_rl.models.load import add_adapter, companions, has_text_decoder, read_config, refusing

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_STRETCHED = ("linear", "dynamic")  # other kinds of RoPE scaling state positions that are stretched already


def check_model(config: Config) -> None:
    """Refuse the run's own model if it cannot be trained; the embedded one can.

    Raises:
        UserError: it does not load, is quantised, reads more than text and has no text decoder of its own, is stored in
            another arrangement than it computes with, lacks a layer that the adapter wants, would encode positions by
            what else is in a batch, or has files that no checkpoint could take along.
    """
    if config.model.path is None:
        return
    import torch
    from transformers import AutoModelForCausalLM

    path = Path(config.model.path).expanduser()
    whole = read_config(path)
    if quantised := getattr(whole, "quantization_config", None):
        method = quantised.get("quant_method") if isinstance(quantised, Mapping) else type(quantised).__name__
        raise UserError(
            f"model.path = {path} is quantised ({method}), and such weights cannot be trained; take the model that it "
            "was made from"
        )
    text = whole.get_text_config()
    if text is not whole and not has_text_decoder(whole):
        raise UserError(
            f"model.path = {path} reads more than text ({whole.model_type}), and transformers has no model of its text "
            "decoder alone; take a text model"
        )
    check_lengths(path, text, config.rollout.engine.model_length(config.rollout.longest_request))
    with refusing(path), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(text, trust_remote_code=False)
    check_arrangement(path, model)
    if config.model.lora is not None:
        with torch.device("meta"):
            add_adapter(model, config.model.lora, "check")
    companions(path, config.model.dtype)


def check_arrangement(model_path: Path, model: "PreTrainedModel") -> None:
    """Refuse a model whose stored weights are not those that lie in memory, under the same names: engines know the
    stored ones, and what is published and saved is what lies in memory.

    Of a model without weights only what would be rearranged is known, not what is renamed.

    Raises:
        UserError: transformers rearranges or renames weights while it loads them.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    used = vars(model).get("_weight_conversions")
    conversions = get_model_conversion_mapping(model, add_legacy=False) if used is None else used
    if any(isinstance(conversion, WeightConverter) for conversion in conversions):
        raise UserError(
            f"model.path = {model_path}: {type(model).__name__} is stored in another arrangement than it computes with "
            "(mixtures of experts are), and such models cannot be trained here; take a dense model"
        )
    if used:
        raise UserError(
            f"model.path = {model_path}: {type(model).__name__} is stored under other names than it computes with, and "
            "engines know the stored ones only; take a text model, or a copy that a current transformers has saved"
        )


def check_lengths(model_path: Path, config: "PretrainedConfig", longest: int) -> None:
    """Refuse sequences of `longest` tokens where their positions would be encoded by the longest in a batch.

    RoPE of the types dynamic and longrope takes its frequencies from the longest sequence of a forward pass. Up to the
    length that the model was first trained at they are always the same, and no sequence depends on the others.

    Raises:
        UserError: they would.
    """
    for kind, limit in _length_dependent(config.get_text_config()):
        if longest > limit:
            raise UserError(
                f"model.path = {model_path} has RoPE of the type {kind!r}: above {limit} tokens the longest sequence "
                f"of a pass would change the others' log-probs, and this run allows {longest}; lower "
                f"rollout.max_prompt_tokens and rollout.max_completion_tokens to {limit} together"
            )


def _length_dependent(config: "PretrainedConfig") -> Iterator[tuple[str, int]]:
    """RoPE types whose frequencies follow from the length, and up to which length they do not (tokens)."""
    rope = getattr(config, "rope_parameters", None) or {}
    by_layer_type = rope and all(isinstance(value, Mapping) for value in rope.values())
    for parameters in rope.values() if by_layer_type else [rope]:
        kind = parameters.get("rope_type") or ""
        if kind == "longrope":
            yield kind, parameters["original_max_position_embeddings"]
        elif "dynamic" in kind:
            yield kind, config.max_position_embeddings


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


def _positions(config: "PretrainedConfig") -> int | None:
    most = getattr(config, "max_position_embeddings", None)
    if not most or most < 0:
        return None
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]  # one for each kind of layer, or one
    factors = [kind.get("factor") or 1.0 for kind in kinds if kind.get("rope_type") in _STRETCHED]
    # Gemma 3 states positions that are stretched, beside a linear factor.
    return int(most * max(factors, default=1.0)) if "gemma3" not in config.model_type else most

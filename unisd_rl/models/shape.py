"""The sizes of a model that decide how much memory its training takes, found without reading a weight.

The model is built on torch's meta device, from its configuration, and one forward pass of a few tokens is run there:
what autograd would keep of it is counted as it is kept, whatever the architecture. Attention stands for the fused
kernels, which keep queries, keys, values and the output, and no matrix of tokens by tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unisd_rl.config.model import ModelConfig
from unisd_rl.models.load import add_adapter, read_config, refusing

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

_TOKENS = 64
_ATTENTION = "unisd_counted"


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Counts are of elements, whatever their type; bytes are those of the type that the model computes with."""

    parameters: int
    """The model's weights, tied ones once, adapters left out."""
    trained: int
    """Weights that get a gradient: all of them, or the factors of one adapter."""
    largest: int
    """The largest tensor among the trained."""
    head: int
    """The output head's weight, vocabulary by hidden."""
    vocabulary: int
    hidden: int
    layers: int
    keys_and_values: int
    """Of one token, over all layers."""
    kept_bytes: int
    """What autograd keeps of one token until the backward pass, without gradient checkpointing."""
    widest_bytes: int
    """The widest tensor of one token in any layer."""


def model_shape(path: Path, settings: ModelConfig) -> ModelShape:
    """The shape of the model of a folder or hub name under the section `model`.

    Raises:
        UserError: transformers does not load it, or the adapter does not fit it.
    """
    return shape_of(read_config(path).get_text_config(), settings, path)


def shape_of(config: "PretrainedConfig", settings: ModelConfig, path: Path = Path("model")) -> ModelShape:
    """The same of a configuration of transformers; `path` names it in an error."""
    import torch
    from transformers import AutoModelForCausalLM

    with refusing(path), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False, dtype=getattr(torch, settings.dtype))
    whole = sum(parameter.numel() for parameter in model.parameters())
    if settings.lora is not None:
        model.requires_grad_(False)
        with torch.device("meta"):
            add_adapter(model, settings.lora, "counted")
    trained = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    head = model.get_output_embeddings().weight
    kept = _Kept({parameter.untyped_storage()._cdata for parameter in model.parameters()})
    with kept.counting():
        model.set_attn_implementation(_ATTENTION)
        ids_BL = torch.zeros(1, _TOKENS, dtype=torch.long, device="meta")
        model.get_decoder()(input_ids=ids_BL, use_cache=False)
    return ModelShape(
        parameters=whole,
        trained=sum(trained),
        largest=max(trained),
        head=head.numel(),
        vocabulary=head.shape[0],
        hidden=head.shape[1],
        layers=config.num_hidden_layers,
        keys_and_values=kept.keys_and_values // _TOKENS,
        kept_bytes=sum(kept.bytes_of.values()) // _TOKENS,
        widest_bytes=max(kept.bytes_of.values()) // _TOKENS,
    )


class _Kept:
    """The storages that one forward pass keeps for its backward pass, weights left out."""

    def __init__(self, weights: set[int]) -> None:
        self._weights, self._alive = weights, list[Any]()
        self.bytes_of = dict[int, int]()
        self.keys_and_values = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        import torch
        from transformers import AttentionInterface

        AttentionInterface.register(_ATTENTION, self._attention)
        with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor):
            yield

    def _keep(self, tensor: "Tensor") -> "Tensor":
        storage = tensor.untyped_storage()
        if storage._cdata not in self._weights:
            self._alive.append(storage)  # or its number would be given to another
            self.bytes_of[storage._cdata] = storage.nbytes()
        return tensor

    def _attention(
        self, module: Any, query_1hTd: "Tensor", key_1gTd: "Tensor", value_1gTd: "Tensor", *_: Any, **__: Any
    ) -> "tuple[Tensor, None]":
        self.keys_and_values += key_1gTd.numel() + value_1gTd.numel()
        output_1hTd = query_1hTd[..., :1] * value_1gTd.new_empty(value_1gTd.shape[-1])
        for tensor in (query_1hTd, key_1gTd, value_1gTd, output_1hTd):
            if tensor.requires_grad:
                self._keep(tensor.contiguous())
        return output_1hTd.transpose(1, 2).contiguous(), None

"""A causal language model that reads contexts and completions and hands over what predicts each completion token.

Under ZeRO-3 a weight exists only while the module that owns it runs. So nothing outside asks for hidden states and
head: a function of both is passed in and runs inside `forward`, where they exist. Student and teacher are `CausalLM`s.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from learner.batch import Inputs
from unisd_rl.errors import UserError
from unisd_rl.models.check import check_arrangement
from unisd_rl.models.load import load_causal_lm
from unisd_rl.objective.kernels.head import Head

Result = TypeVar("Result")
HiddenStateFn = Callable[[Tensor, Head], Result]
"""What to do with `hidden_NH`, the final hidden states (after the last norm) of N packed tokens, and the head."""


class CausalLM(nn.Module):
    """A model body and its head. Owned by a DeepSpeed engine where weights are sharded."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        settings: dict[str, Any] = model.config.to_dict()
        self._soft_cap: float | None = settings.get("final_logit_softcapping")
        self._scale = float(settings.get("logit_scale") or 1.0) / float(settings.get("logits_scaling") or 1.0)

    def forward(self, inputs: Inputs, on_hidden: HiddenStateFn[Result]) -> Result:
        """Read one pass and return `on_hidden(hidden_NH, head)`."""
        packing = {} if inputs.packing is None else inputs.packing.keywords()
        decoder = self.model.get_decoder()
        hidden_BLH = decoder(input_ids=inputs.ids_BL, use_cache=False, **packing).last_hidden_state
        return on_hidden(hidden_BLH.flatten(0, 1).index_select(0, inputs.predicts_N), self.head())

    def head(self) -> Head:
        """The output head; its tensors are full only inside `forward` or while they are gathered."""
        layer = self.model.get_output_embeddings()
        return Head(layer.weight, layer.bias, self._soft_cap, self._scale)

    def head_parameters(self) -> list[nn.Parameter]:
        """What `head` is made of (the embedding too, where it is tied)."""
        return list(self.model.get_output_embeddings().parameters())


def load_model(model_path: Path, dtype: str) -> CausalLM:
    """The model of a folder or hub name, with a head that is known to be its own.

    Raises:
        UserError: it does not load, its head does more than `Head` can express, or its weights are stored otherwise
            than they lie in memory.
    """
    model = load_causal_lm(model_path, dtype)
    check_arrangement(model_path, model)
    lm = CausalLM(model)
    check_head(lm, model_path)
    return lm


@torch.no_grad()
def check_head(lm: CausalLM, model_path: Path) -> None:
    """The model's own logits and ours on a few tokens must agree: some models scale, cap or project them further.

    Raises:
        UserError: they do not.
    """
    if lm.model.get_output_embeddings() is None:
        raise UserError(f"model.path = {model_path}: it has no output embedding, so it is not a causal language model")
    ids_BL = torch.arange(8).unsqueeze(0) % lm.model.config.get_text_config().vocab_size
    hidden_LH = lm.model.get_decoder()(input_ids=ids_BL, use_cache=False).last_hidden_state[0]
    logits_LV = lm.head().logits(hidden_LH)
    expected_LV = lm.model(input_ids=ids_BL, use_cache=False).logits[0].float()
    if not torch.allclose(logits_LV, expected_LV, rtol=2e-2, atol=2e-2 * float(expected_LV.abs().max())):
        raise UserError(
            f"model.path = {model_path}: the head of {type(lm.model).__name__} does more to its logits than a "
            "bias, a scale and a soft cap, so it cannot be trained here; take another model"
        )

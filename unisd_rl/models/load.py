"""The one place that loads a causal language model: for the learner, the transformers engine and retention.

All of them must compute the same function of the same folder, so what that depends on is decided here.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from unisd_rl.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DROPOUTS = {"attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout"}


def load_causal_lm(model_path: Path, dtype: str) -> "PreTrainedModel":
    """The model of a folder or hub name in `dtype`, in this process's memory. Never runs code that lies beside it.

    It has no dropout: a mask would make the gradient depend on the layout. Attention is torch's fused one, or eager
    where the model has no fused one or caps its attention's logits.

    Raises:
        UserError: transformers does not load it.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(model_path, trust_remote_code=False)
        for name in _DROPOUTS & config.to_dict().keys():
            setattr(config, name, 0.0)
        # The fused kernel would leave out the soft cap, without a word. None: fused where the model has it.
        capped = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
        return AutoModelForCausalLM.from_pretrained(
            model_path,
            config=config,
            dtype=dtype,
            attn_implementation="eager" if capped else None,
            trust_remote_code=False,
        )
    except (OSError, ValueError) as error:
        raise UserError(f"transformers does not load model.path = {model_path}: {error}") from error

"""The one place that loads a language model: for the learner, the transformers engine and retention; and embeddings.

All of them must compute the same function of the same folder, so what that depends on is decided here. What cannot be
trained is refused before any process starts (check.py).

```
 released folder --load_causal_lm--> a model in memory --add_adapter--> with an adapter on it
                 --companions------> what travels along with its weights into a checkpoint
                 --write_text_decoder--> a folder with the text decoder alone, of a model that reads more than text
```
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unisd_rl.config.model import LoraConfig
from unisd_rl.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

WEIGHTS = "model.safetensors"
_COMPANIONS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_TRIED_TOKENS = 8


def load_causal_lm(model_path: Path, dtype: str) -> "PreTrainedModel":
    """The model of a folder or hub name in `dtype`, in this process's memory. Never runs code that lies beside it.

    It has no dropout: a mask would make the gradient depend on the layout. Attention is torch's fused one, or eager
    where the model has no fused one or caps its attention's logits.

    Raises:
        UserError: transformers does not load it, or an adapter lies in its folder.
    """
    from transformers import AutoModelForCausalLM

    config = read_config(model_path)
    for part in (config, *(getattr(config, name) for name in config.sub_configs)):
        for name, value in part.to_dict().items() if part is not None else ():
            if "drop" in name and isinstance(value, float):
                setattr(part, name, 0.0)
    with refusing(model_path):
        model, found = AutoModelForCausalLM.from_pretrained(
            model_path,
            config=config,
            dtype=dtype,
            attn_implementation=_attention(config),
            trust_remote_code=False,
            output_loading_info=True,
        )
        if missing := sorted(found["missing_keys"]):  # transformers draws them at random, with a warning
            raise ValueError(f"{len(missing)} of its weights are not there, {missing[0]} first")
    return model


def load_encoder(model_path: str) -> "PreTrainedModel":
    """The body of a model, for embeddings, in the type it is stored in; raises whatever transformers raises."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(model_path, trust_remote_code=False)
    return AutoModel.from_pretrained(
        model_path, config=config, attn_implementation=_attention(config), trust_remote_code=False
    ).eval()


def _attention(config: "PretrainedConfig") -> str | None:
    """What the model of this configuration must attend with; None: its own choice, fused where it has that."""
    # The fused kernel would leave out the soft cap, without a word.
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
    return "eager" if capped else None


def read_config(model_path: Path) -> "PretrainedConfig":
    """The configuration of the model of a folder or hub name.

    Raises:
        UserError: transformers does not know it, or an adapter lies in its folder: transformers would lay it over the
            weights, and vLLM would not.
    """
    from transformers import AutoConfig
    from transformers.utils import find_adapter_config_file

    with refusing(model_path):
        adapter = find_adapter_config_file(str(model_path))
    if adapter is not None:
        what = "holds an adapter beside its weights" if Path(model_path, "config.json").is_file() else "is an adapter"
        raise UserError(
            f"model.path = {model_path} {what} (adapter_config.json), and the learner and vLLM would not agree on what "
            "it computes: give the model that it was merged into (peft's merge_and_unload), or move the adapter away"
        )
    with refusing(model_path):
        return AutoConfig.from_pretrained(model_path, trust_remote_code=False)


@contextmanager
def refusing(model_path: Path) -> Iterator[None]:
    """Within this block whatever is wrong with a folder is a `UserError` that names it.

    transformers raises almost anything about folders that are unknown to it, damaged or copied in part: OSError,
    ValueError, KeyError, ImportError, RuntimeError, safetensors' own.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"transformers does not load model.path = {model_path}: {reason}") from error


def companions(model_path: Path, dtype: str) -> dict[str, bytes]:
    """What travels along with the weights into a checkpoint, by file name: the model's files as they are, but for the
    dtype in config.json.

    Byte for byte: transformers refuses to write some generation configurations that it reads, and writes tokenizers in
    a form that its older versions do not read.

    Raises:
        UserError: the folder or hub name has no configuration or no tokenizer that loads.
    """
    from transformers import AutoTokenizer
    from transformers.utils import cached_file

    with refusing(model_path):
        tokenizer = AutoTokenizer.from_pretrained(model_path, trust_remote_code=False)  # fetches its files from a hub
        cached_file(model_path, "generation_config.json", _raise_exceptions_for_missing_entries=False)
        folder = Path(cached_file(model_path, "config.json")).parent
        vocabulary = set(tokenizer.vocab_files_names.values())
        files = [folder / name for name in sorted({*_COMPANIONS, *vocabulary})]
        files += sorted(folder.glob("additional_chat_templates/*.jinja"))
        found = {str(file.relative_to(folder)): file.read_bytes() for file in files if file.is_file()}
        if vocabulary and vocabulary.isdisjoint(found):  # transformers makes up a tokenizer without a vocabulary
            raise ValueError(f"its tokenizer has no {' or '.join(sorted(vocabulary))}")
        config = json.loads((folder / "config.json").read_bytes())
    config.pop("torch_dtype", None)  # the key's name in older versions
    return {**found, "config.json": _json({**config, "dtype": dtype})}


def write_companions(files: Mapping[str, bytes], folder: Path) -> None:
    """Write what `companions` returned.

    Raises:
        OSError: the disk does not take it.
    """
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def add_adapter(model: "PreTrainedModel", lora: LoraConfig, name: str, dropout: float = 0.0) -> None:
    """Give `model` a fresh adapter (B = 0) on every layer that `lora.targets` names, in place.

    Each of them is a plain linear layer, so that the adapter can be merged into its weight (`learner.lora.merged`).

    Raises:
        UserError: a name fits no layer, or a layer of another kind, or the output head.
    """
    from unisd_rl.models.peft_import import PeftConfig, inject_adapter_in_model

    for target in lora.targets:
        _check_target(model, target)
    config = PeftConfig(
        r=lora.rank, lora_alpha=lora.effective_alpha, lora_dropout=dropout, target_modules=list(lora.targets)
    )
    with warnings.catch_warnings():  # peft warns of a second adapter, which is what we want
        warnings.simplefilter("ignore", UserWarning)
        inject_adapter_in_model(config, model, adapter_name=name)


def _check_target(model: "PreTrainedModel", target: str) -> None:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    # A subclass may compute something else than its weight says (quantised, ternary), so these two and no others.
    plain = (nn.Linear, Conv1D)
    layers = {path: getattr(layer, "base_layer", layer) for path, layer in model.named_modules()}
    named = [layer for path, layer in layers.items() if f".{path}".endswith(f".{target}")]  # as peft matches names
    linear = sorted({path.rpartition(".")[2] for path, layer in layers.items() if type(layer) in plain})
    where = f"{type(model).__name__}, whose linear layers are called {', '.join(linear)}"
    if not named:
        raise UserError(f"model.lora.targets names {target!r}, which is no layer of {where}")
    if any(layer in (model.get_input_embeddings(), model.get_output_embeddings()) for layer in named):
        raise UserError(
            f"model.lora.targets names {target!r}, the embedding or the output head: both are shared by student and "
            "teacher as they are; leave it out"
        )
    if kinds := {type(layer).__name__ for layer in named if type(layer) not in plain}:
        raise UserError(
            f"model.lora.targets names {target!r}, of the class {min(kinds)}, but an adapter is merged into plain "
            f"linear layers: choose among those of {where}"
        )


def has_text_decoder(config: "PretrainedConfig") -> bool:
    """Whether the model of this configuration reads more than text, and its text decoder is a model of its own too."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return "text_config" in config.sub_configs and type(config.get_text_config()) in MODEL_FOR_CAUSAL_LM_MAPPING


def write_text_decoder(model_path: Path, folder: Path) -> None:
    """Write the text decoder of a model that `has_text_decoder` to a new folder, as the text model that it is.

    The whole model is in this process's memory meanwhile. What was written is loaded again and its logits are compared.

    Raises:
        UserError: its decoder is not the text model of its kind.
        OSError: the disk does not take it.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    released = load_causal_lm(model_path, "auto").eval()
    text_config, dtype = released.config.get_text_config(), str(released.dtype).removeprefix("torch.")
    ids_BL = torch.arange(_TRIED_TOKENS).unsqueeze(0) % text_config.vocab_size
    with refusing(model_path), torch.no_grad():
        with torch.device("meta"):
            text = AutoModelForCausalLM.from_config(text_config)
        weights = _text_weights(released, text)
        expected_BLV = released(input_ids=ids_BL, use_cache=False).logits.float()
    files = companions(model_path, dtype)
    whole = json.loads(files["config.json"])
    config = {
        **whole["text_config"],
        **{name: whole[name] for name in _TOKEN_IDS if name in whole},
        "architectures": [type(text).__name__],
        "model_type": text_config.model_type,
        "tie_word_embeddings": released.get_output_embeddings().weight is released.get_input_embeddings().weight,
        "dtype": dtype,
    }
    folder.mkdir(parents=True)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    write_companions({**files, "config.json": _json(config)}, folder)
    name = type(released).__name__
    del released, weights
    with torch.no_grad():
        logits_BLV = load_causal_lm(folder, dtype).eval()(input_ids=ids_BL, use_cache=False).logits.float()
    if not torch.allclose(logits_BLV, expected_BLV, rtol=1e-2, atol=1e-2 * float(expected_BLV.abs().max())):
        raise UserError(
            f"model.path = {model_path}: {name} computes something else from text than {type(text).__name__} does, so "
            "its text decoder cannot be trained alone; take a text model"
        )


def _text_weights(released: "PreTrainedModel", text: "PreTrainedModel") -> dict[str, Any]:
    """The weights of `released` that are those of `text`, under its names, tied ones once.

    Raises:
        ValueError: they are not the weights of such a model.
    """
    decoder, head = text.get_decoder(), text.get_output_embeddings()
    name_of = {module: name for name, module in text.named_modules()}
    parts = {name_of[decoder]: released.get_decoder(), name_of[head]: released.get_output_embeddings()}
    weights = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    if weights.keys() != text.state_dict().keys():
        raise ValueError(f"its text decoder has not the weights of {type(text).__name__}")
    first = {value.data_ptr(): name for name, value in reversed(weights.items())}
    return {name: weights[name].contiguous() for name in sorted(first.values())}


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()

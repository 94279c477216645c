"""Tiny random models of each family, as they are released: weights, configuration, a byte-level chat tokenizer."""

import json
from pathlib import Path

import torch

from tests.fakes.tiny_chat_model import TEMPLATE, save_tokenizer

FAMILIES = ("qwen2", "qwen3", "llama", "gemma3", "gpt2", "smollm2")
TARGETS = {"gpt2": ("c_attn", "c_proj", "c_fc")}
"""Layers for adapters, where they are not those of the default."""
END = 256
"""`<|im_end|>` of the tokenizer."""
SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,  # the least that vLLM computes on a CPU
    "max_position_embeddings": 1024,
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": END,
    "pad_token_id": None,
}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
DEFAULT_SYSTEM = "You are a helpful AI assistant named Tiny."
_SMOLLM2_TEMPLATE = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\n" + DEFAULT_SYSTEM + "<|im_end|>\n{% endif %}" + TEMPLATE
)


def family_model(name):
    """A random model of the family, in the class it is released in."""
    import transformers as t

    torch.manual_seed(FAMILIES.index(name))
    windows = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]}
    make = {
        "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**SIZES)),
        "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**SIZES, tie_word_embeddings=True)),
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**SIZES)),
        "gemma3": lambda: t.Gemma3ForConditionalGeneration(
            t.Gemma3Config(
                text_config={**SIZES, **windows, "query_pre_attn_scalar": 32},
                vision_config=_VISION,
                mm_tokens_per_image=4,
                image_token_index=299,
                boi_token_index=297,
                eoi_token_index=298,
                eos_token_id=[END, 257],
                tie_word_embeddings=True,
            )
        ),
        "gpt2": lambda: t.GPT2LMHeadModel(
            t.GPT2Config(
                vocab_size=300,
                n_embd=64,
                n_layer=2,
                n_head=2,
                n_positions=1024,
                initializer_range=0.15,
                bos_token_id=None,
                eos_token_id=END,
            )
        ),
        "smollm2": lambda: t.LlamaForCausalLM(t.LlamaConfig(**SIZES, tie_word_embeddings=True)),
    }
    return make[name]().eval()


def save_family(name: str, folder: Path) -> Path:
    """The folder of a random model of the family."""
    family_model(name).save_pretrained(folder)
    save_tokenizer(folder)
    if name == "smollm2":
        (folder / "chat_template.jinja").write_text(_SMOLLM2_TEMPLATE)
    return folder


def edit_json(file: Path, **changes) -> None:
    """Set keys of a JSON file; None takes one away."""
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

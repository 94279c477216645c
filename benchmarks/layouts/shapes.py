"""The models that are measured: the sizes of public ones with random weights, as folders with a tokenizer."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

MERGED = 8192
"""Tokens of a tokenizer that is trained on the records."""
_START, _END, _PADDING = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
_SYSTEM = "You are a helpful AI assistant, and you answer as briefly as the question allows."
_TEMPLATE = (
    "{% if messages[0].role != 'system' %}" + _START + "system\n" + _SYSTEM + _END + "\n{% endif %}"
    "{% for message in messages %}" + _START + "{{ message.role }}\n{{ message.content }}" + _END + "\n{% endfor %}"
    "{% if add_generation_prompt %}" + _START + "assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """The sizes of a public model; `layers` may be fewer than its own."""

    family: str
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_heads: int
    tied: bool

    @property
    def layer_weights(self) -> int:
        """Weights that every token is multiplied by: those of the linear layers, without embedding and head."""
        attention = self.hidden * self.hidden * (2 + 2 * self.key_heads / self.heads)
        return self.layers * (int(attention) + 3 * self.hidden * self.intermediate)

    @property
    def head_weights(self) -> int:
        """Weights that a token is multiplied by whose follower is predicted."""
        return self.vocabulary * self.hidden


SHAPES = {
    "tiny": Shape("llama", MERGED, 64, 128, 2, 4, 2, True),
    "smollm2": Shape("llama", 49_152, 576, 1536, 30, 9, 3, True),
    "qwen2.5-0.5b": Shape("qwen2", 151_936, 896, 4864, 4, 14, 2, True),  # of 24 layers
    "qwen2.5-1.5b": Shape("qwen2", 151_936, 1536, 8960, 28, 12, 2, True),
    "qwen2.5-7b": Shape("qwen2", 152_064, 3584, 18_944, 28, 28, 4, False),
}


def write_model(shape: Shape, tokenizer: PreTrainedTokenizerBase, device: str, dtype: str, folder: Path) -> Path:
    """A folder with random weights of this shape, drawn on `device`."""
    config = AutoConfig.for_model(
        shape.family,
        vocab_size=max(shape.vocabulary, len(tokenizer)),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=8192,
        initializer_range=shape.hidden**-0.5,  # logits that differ by a nat or so: views then disagree
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trained_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer of these texts, whose chat template opens with a system turn as public ones do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = [_START, _END, _PADDING]
    trainer = trainers.BpeTrainer(
        vocab_size=MERGED, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=_END, pad_token=_PADDING, additional_special_tokens=[_START]
    )
    fast.chat_template = _TEMPLATE
    return fast


def tokenizer_of(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder."""
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

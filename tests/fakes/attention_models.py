"""Tiny random models whose attention differs: with windows and without, grouped keys, positions added or rotated.

And the attention of a row, by its definition.
"""

import torch
from torch import nn
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from learner.prefix_tree import PrefixTree

WINDOW = 4
SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "initializer_range": 0.5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MIXED = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
MODELS = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen2 with windows": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=WINDOW)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, **MIXED, query_pre_attn_scalar=3)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2)
    ),
}


def make(name):
    torch.manual_seed(5)
    return MODELS[name]().eval()


def ids(length):
    return torch.randint(0, 32, (length,), generator=torch.Generator().manual_seed(length))


def states(model, ids_T, **keywords):
    return model.get_decoder()(input_ids=ids_T[None], use_cache=False, **keywords).last_hidden_state[0]


def train_recomputing(model):
    """Activations are computed again in the backward pass."""
    model.train().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for module in model.modules():  # GPT-2 has dropout by default
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def row_of(sequences):
    """The row of their prefix tree, in which the shortest prefix is shared."""
    return PrefixTree.of([torch.tensor(each, dtype=torch.int32).numpy() for each in sequences], least_shared=1).row()


def dense_attention(query, key, value, row, scaling, window):
    """The definition, literally: one mask over the whole row."""
    every = torch.arange(query.shape[2], device=query.device)
    depth, end = (torch.from_numpy(array).to(query.device) for array in (row.depth_T, row.subtree_end_T))
    seen = (every <= every[:, None]) & (every[:, None] < end)
    if window is not None:
        seen &= depth[:, None] - depth < window
    key, value = (tensor.repeat_interleave(query.shape[1] // key.shape[1], 1) for tensor in (key, value))
    weights = (query @ key.transpose(2, 3) * scaling).masked_fill(~seen, -torch.inf).softmax(-1)
    return (weights @ value).transpose(1, 2)

"""Weight decay takes what transformers' own trainer lets it take: no norm and no bias."""

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Trainer,
)

from learner.lora import STUDENT, add_adapters
from learner.optimizer import parameter_groups
from unisd_rl.config.model import LoraConfig
from unisd_rl.transport.weights.adapter import factors

SIZES = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
MODELS = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, **HEADS)),  # biases of q, k and v
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, **HEADS)),  # norms of q and k
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS, mlp_bias=True)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, **HEADS)),  # norms after and before
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2)),  # Conv1D, LayerNorm
}


@pytest.mark.parametrize("family", MODELS)
def test_what_decays_is_what_transformers_trainer_lets_decay(family):
    named = dict(MODELS[family]().named_parameters())
    theirs = set(Trainer.get_decay_parameter_names(None, MODELS[family]()))
    decayed, kept = parameter_groups(named.values(), 0.1)
    names = {id(parameter): name for name, parameter in named.items()}
    assert {names[id(parameter)] for parameter in decayed["params"]} == theirs & named.keys()
    assert {names[id(parameter)] for parameter in kept["params"]} == named.keys() - theirs
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert kept["params"]


def test_a_step_without_a_gradient_shrinks_matrices_and_leaves_norms_and_biases():
    model = MODELS["qwen2"]()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimiser = torch.optim.AdamW(parameter_groups(model.parameters(), 0.5), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    for name, parameter in model.named_parameters():
        expected = before[name] if name.endswith("bias") or "norm" in name else 0.95 * before[name]
        torch.testing.assert_close(parameter.detach(), expected)


def test_without_a_decay_and_of_an_adapter_there_is_one_group():
    """An empty group is none that DeepSpeed can flatten."""
    model = MODELS["llama"]()
    (group,) = parameter_groups(model.parameters(), 0.0)
    assert (len(group["params"]), group["weight_decay"]) == (len(list(model.parameters())), 0.0)
    add_adapters(model, LoraConfig(rank=2), seed=0)
    (group,) = parameter_groups(factors(model, STUDENT).values(), 0.1)
    assert group["weight_decay"] == 0.1

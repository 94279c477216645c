"""An adapter is merged as peft merges it, on every kind of layer it is accepted on; on others it is refused."""

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model, set_peft_model_state_dict
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from learner.checkpoint import full_weights, weights_layout
from learner.lora import STUDENT, TEACHER, adapted_layers, add_adapters
from unisd_rl.config.model import LoraConfig
from unisd_rl.errors import UserError
from unisd_rl.transport.weights.adapter import factors

SIZES = {"vocab_size": 32, "bos_token_id": 1, "eos_token_id": 2}
IDS = torch.arange(3, 12)[None]


def gpt2():
    """Its Conv1D layers store their weights as [in, out]; `attn.c_proj` is square, so a wrong merge has its shape."""
    return GPT2LMHeadModel(GPT2Config(**SIZES, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3))


def llama():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**SIZES, **sizes, initializer_range=0.3))


KINDS = {
    "Conv1D": (gpt2, ("c_attn",)),
    "square Conv1D": (gpt2, ("c_proj",)),
    "all Conv1D": (gpt2, ("c_attn", "c_proj", "c_fc")),
    "Linear": (llama, ("q_proj", "o_proj", "down_proj")),
}


class Student:
    """What of a student is merged."""

    def __init__(self, model):
        self.lm = self
        self.model = model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_merged_weights_are_those_of_pefts_own_merge(kind, dtype):
    make, targets = KINDS[kind]
    torch.manual_seed(1)
    model, lora = make().eval(), LoraConfig(rank=4, alpha=12, targets=targets)
    base = {name: weight.clone() for name, weight in model.state_dict().items()}
    add_adapters(model, lora, seed=0)
    with torch.no_grad():
        for factor in (*factors(model, STUDENT).values(), *factors(model, TEACHER).values()):
            factor.copy_(torch.randn_like(factor) * 0.3)
    named = {name: factor.detach().clone() for name, factor in factors(model, STUDENT).items()}
    plain = make().eval()
    plain.load_state_dict(base)
    config = PeftConfig(r=4, lora_alpha=12, target_modules=list(targets), fan_in_fan_out=make is gpt2)
    oracle = get_peft_model(plain, config)
    set_peft_model_state_dict(oracle, named)
    expected = oracle.eval()(input_ids=IDS).logits.detach()
    merged = oracle.merge_and_unload().state_dict()

    found = {name: weight.clone() for name, weight in full_weights(Student(model.to(dtype)), lora)}
    assert all(weight.dtype == dtype for weight in found.values())
    assert weights_layout(Student(model), lora) == {name: (dtype, weight.shape) for name, weight in found.items()}
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    for name, weight in found.items():
        assert torch.allclose(weight.float(), merged[name], rtol=tolerance, atol=tolerance), name
    assert max(float((merged[name] - base[name]).abs().max()) for name in base) > 0.3  # the adapter shows
    if dtype == torch.float32:
        again = make().eval()
        again.load_state_dict(found, strict=False)
        again.tie_weights()
        assert torch.allclose(again(input_ids=IDS).logits, expected, atol=1e-4)


def test_every_layer_under_an_adapter_is_merged():
    model = gpt2()
    add_adapters(model, LoraConfig(targets=("c_attn", "c_proj")), seed=0)
    assert sorted(adapted_layers(model)) == sorted(
        f"transformer.h.{block}.{layer}.base_layer.weight"
        for block in range(2)
        for layer in ("attn.c_attn", "attn.c_proj", "mlp.c_proj")
    )


class Ternary(nn.Linear):
    """A linear layer that computes with something else than its weight."""


@pytest.mark.parametrize(
    "targets, sentence",
    [
        (("q_proj",), "names 'q_proj', which is no layer of GPT2LMHeadModel, whose linear layers are called c_attn, "),
        (("c_attn", "q_proj"), "names 'q_proj', which is no layer of"),
        (("wte",), "names 'wte', the embedding or the output head"),
        (("c_attn", "lm_head"), "names 'lm_head', the embedding or the output head"),
        (("wpe",), "names 'wpe', of the class Embedding, but an adapter is merged into plain linear layers"),
        (("attn",), "names 'attn', of the class GPT2Attention"),
        (("c_fc",), "names 'c_fc', of the class Ternary"),
    ],
)
def test_an_adapter_on_a_layer_that_could_not_be_merged_is_refused_by_its_name(targets, sentence):
    model = gpt2()
    model.transformer.h[1].mlp.c_fc = Ternary(16, 64)
    with pytest.raises(UserError, match=sentence):
        add_adapters(model, LoraConfig(targets=targets), seed=0)

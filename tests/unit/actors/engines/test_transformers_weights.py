import pytest
import torch
from transformers import AutoModelForCausalLM

from actors.engines.engine import EngineDied
from actors.engines.transformers_weights import ADAPTER, add_adapter, replace_adapter
from tests.fakes.adapters import LORA, adapter_snapshot, random_factors, with_factors
from tests.fakes.tiny_chat_model import save_model
from unisd_rl.config.model import LoraConfig
from unisd_rl.transport.weights.adapter import factors
from unisd_rl.transport.weights.manifest import UpdateRefused

TOKENS = torch.arange(30)[None]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_model(path, tied=True)
    return path


@pytest.fixture
def model(model_path):
    model = AutoModelForCausalLM.from_pretrained(model_path).eval()
    add_adapter(model, LoraConfig(**LORA))
    return model


def copies(model):
    return {name: parameter.clone() for name, parameter in model.named_parameters()}


@torch.no_grad()
def test_a_blank_adapter_changes_no_bit_of_what_the_base_says(model, model_path):
    base = AutoModelForCausalLM.from_pretrained(model_path).eval()
    assert model(TOKENS).logits.equal(base(TOKENS).logits)


@torch.no_grad()
def test_an_update_writes_the_factors_and_never_the_base(model, model_path):
    before, sent = copies(model), random_factors(model_path, seed=3)
    replace_adapter(model, *adapter_snapshot(sent, 0))
    for name, parameter in model.named_parameters():
        assert parameter.equal(before[name]) == (".lora_" not in name), name
    assert {name: factor.tolist() for name, factor in factors(model, ADAPTER).items()} == {
        name: factor.tolist() for name, factor in sent.items()
    }
    torch.testing.assert_close(model(TOKENS).logits, with_factors(model_path, sent)(TOKENS).logits)


@pytest.mark.parametrize(
    "foreign", ["base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight", "lm_head.weight"]
)
def test_a_foreign_tensor_is_refused_before_any_factor_is_written(model, model_path, foreign):
    before, sent = copies(model), random_factors(model_path, seed=3)
    sent[foreign] = torch.zeros(6, 128)
    with pytest.raises(UpdateRefused, match=rf"version 0:4 is refused: it holds {foreign}"):
        replace_adapter(model, *adapter_snapshot(sent, 4))
    assert all(parameter.equal(before[name]) for name, parameter in model.named_parameters())


def test_targets_that_the_model_has_not_are_named(model_path):
    model = AutoModelForCausalLM.from_pretrained(model_path)
    with pytest.raises(EngineDied, match=r"model.lora.targets = \['c_attn'\]"):
        add_adapter(model, LoraConfig(targets=("c_attn",)))

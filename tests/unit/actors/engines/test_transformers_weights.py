import asyncio

import pytest
import torch
from transformers import AutoModelForCausalLM

from actors.engines.engine import EngineDied, EngineSpec
from actors.engines.transformers_engine import TransformersRolloutEngine
from actors.engines.transformers_weights import ADAPTER, replace_adapter, replace_model
from learner.sharding import named_weights
from tests.fakes.adapters import LORA, adapter_snapshot, random_factors, with_factors
from tests.fakes.tiny_chat_model import save_model
from unisd_rl.config.model import LoraConfig
from unisd_rl.models.load import add_adapter
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
    add_adapter(model, LoraConfig(**LORA), ADAPTER)
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
    lora = LoraConfig(targets=("c_attn",))
    engine = TransformersRolloutEngine(EngineSpec(model_path, "float32", (), 64, 1, (2,), True, 0, lora))
    with pytest.raises(EngineDied, match=r"model.lora.targets names 'c_attn', which is no layer of Qwen2ForCausalLM"):
        asyncio.run(engine.start())


def with_stored_buffer(model_path):
    """A model with a buffer that is stored with its weights, as some scale their embedding or their residuals."""
    model = AutoModelForCausalLM.from_pretrained(model_path)
    model.model.register_buffer("layer_scale", torch.ones(3))
    return model


def test_a_snapshot_of_the_whole_model_renews_stored_buffers_too(model_path):
    model, sender = with_stored_buffer(model_path), with_stored_buffer(model_path)
    with torch.no_grad():
        for tensor in {id(tensor): tensor for tensor in sender.state_dict(keep_vars=True).values()}.values():
            tensor.add_(1.0)
    replace_model(model, *adapter_snapshot(dict(named_weights(sender)), 0))
    assert model.model.layer_scale.tolist() == [2.0, 2.0, 2.0]
    assert all(tensor.equal(sender.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layer_scale"])
def test_a_snapshot_that_leaves_a_weight_out_is_noticed(model_path, name):
    weights = dict(named_weights(with_stored_buffer(model_path)))
    del weights[name]
    with pytest.raises(EngineDied, match=f"version 0:0 leaves out 1 weights: {name}"):
        replace_model(with_stored_buffer(model_path), *adapter_snapshot(weights, 0))

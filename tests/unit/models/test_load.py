"""Learner, engine and retention compute the same function of one folder, because one function loads it."""

import asyncio
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma2Model,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from actors.engines.engine import EngineDied, EngineSpec
from actors.engines.transformers_engine import TransformersRolloutEngine
from learner.model import load_model
from unisd_rl.errors import UserError
from unisd_rl.models.load import load_causal_lm, load_encoder
from unisd_rl.types import Sampling

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "initializer_range": 0.5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
ROOT = Path(__file__).parents[3]
IDS = torch.arange(3, 12)


def spec(path):
    return EngineSpec(
        model_path=path,
        dtype="float32",
        cores=(),
        max_model_len=64,
        concurrency=1,
        stop_tokens=(2,),
        verify=True,
        seed=0,
        adapter=None,
    )


@pytest.fixture
def capped(tmp_path):
    """A model that caps its attention's logits, which torch's fused attention leaves out."""
    torch.manual_seed(5)
    model = Gemma2ForCausalLM(Gemma2Config(**SIZES, attn_logit_softcapping=0.1)).eval()
    model.save_pretrained(tmp_path)
    model.set_attn_implementation("eager")
    return tmp_path, torch.log_softmax(model(IDS[None]).logits[0], -1).detach()


def test_one_file_of_the_product_loads_models():
    files = [file for top in ("unisd_rl", "actors", "learner") for file in (ROOT / top).rglob("*.py")]
    loads = re.compile(r"\b(AutoModel\w*|PreTrainedModel|\w+ForCausalLM)\.(from_pretrained|from_config)\(")
    loading = {str(file.relative_to(ROOT)) for file in files if loads.search(file.read_text())}
    without_weights = {"unisd_rl/models/check.py", "unisd_rl/models/shape.py"}
    assert loading == {"unisd_rl/models/load.py"} | without_weights


def test_a_soft_cap_in_attention_is_kept_by_learner_and_retention(capped):
    path, expected_LV = capped
    logits_LV = load_model(path, "float32").model.eval()(IDS[None]).logits[0]
    assert torch.allclose(torch.log_softmax(logits_LV, -1), expected_LV, atol=1e-6)


def test_a_soft_cap_in_attention_is_kept_by_the_transformers_engine(capped):
    path, expected_LV = capped

    async def generate():
        engine = TransformersRolloutEngine(spec(path))
        await engine.start()
        try:
            return await engine.generate(IDS.int().numpy(), Sampling(1.0, 1.0, max_tokens=1, seed=0))
        finally:
            await engine.close()

    generation = asyncio.run(generate())
    assert generation.logprobs[0] == pytest.approx(float(expected_LV[-1, generation.tokens[0]]), abs=1e-5)


def test_a_soft_cap_in_attention_is_kept_where_texts_are_embedded(capped):
    path, _ = capped
    expected = Gemma2Model.from_pretrained(path, attn_implementation="eager")(IDS[None]).last_hidden_state
    assert torch.equal(load_encoder(str(path))(IDS[None]).last_hidden_state, expected)


@pytest.mark.parametrize(
    "name, config",
    [
        ("opt", {"hidden_size": 16, "ffn_dim": 16, "word_embed_proj_dim": 16, "layerdrop": 0.5, "dropout": 0.5}),
        (
            "gpt_neo",
            {"hidden_size": 16, "resid_dropout": 0.5, "embed_dropout": 0.5, "attention_types": [[["local"], 1]]},
        ),
    ],
)
def test_a_model_has_no_dropout_whatever_its_configuration_calls_it(tmp_path, name, config):
    sizes = {"vocab_size": 32, "num_hidden_layers": 1, "num_layers": 1, "num_attention_heads": 2, "num_heads": 2}
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(5)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **sizes, **tokens, **config)).save_pretrained(tmp_path)
    model = load_causal_lm(tmp_path, "float32")
    with torch.no_grad():
        expected, training = model.eval()(IDS[None]).logits, [model.train()(IDS[None]).logits for _ in range(4)]
    assert all(torch.equal(logits, expected) for logits in training)


def test_a_model_without_a_cap_has_fused_attention_and_no_dropout(tmp_path):
    Qwen2ForCausalLM(Qwen2Config(**SIZES, attention_dropout=0.5)).save_pretrained(tmp_path / "qwen2")
    GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2)).save_pretrained(tmp_path / "gpt2")
    for name, dropouts in (("qwen2", {"attention_dropout"}), ("gpt2", {"resid_pdrop", "embd_pdrop", "attn_pdrop"})):
        config = load_causal_lm(tmp_path / name, "bfloat16").config
        assert config._attn_implementation == "sdpa"
        assert {getattr(config, dropout) for dropout in dropouts} == {0.0}
        assert config.dtype == torch.bfloat16


def test_weights_that_are_not_there_are_not_made_up(tmp_path):
    Qwen2ForCausalLM(Qwen2Config(**SIZES)).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.0.mlp.up_proj.weight"], weights["lm_head.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"2 of its weights are not there, lm_head.weight first"):
        load_causal_lm(tmp_path, "float32")


def test_a_folder_without_a_model_is_refused_by_its_name(tmp_path):
    with pytest.raises(UserError, match=f"transformers does not load model.path = {tmp_path}"):
        load_causal_lm(tmp_path, "float32")
    engine = TransformersRolloutEngine(spec(tmp_path))
    with pytest.raises(EngineDied, match=f"transformers does not load model.path = {tmp_path}"):
        asyncio.run(engine.start())

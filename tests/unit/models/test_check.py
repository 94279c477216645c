"""A model that cannot be trained is refused before anything starts, in one sentence; no weight is read for it."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from learner.batch import collate
from learner.layout import choose_layout
from learner.model import CausalLM
from tests.fakes.families import FAMILIES, SIZES, TARGETS, edit_json, save_family
from tests.fakes.learner_rig import learner_config
from unisd_rl.errors import UserError
from unisd_rl.models.check import check_lengths, check_model
from unisd_rl.models.load import load_causal_lm, read_config

ORIGINAL = 24
"""Tokens up to which a model with RoPE of a type that follows from the length was first trained."""
ROPES = {
    "dynamic": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
        "short_factor": [1.0] * 16,
        "long_factor": [4.0] * 16,
    },
}


def config(path, lora=None, **sections):
    return learner_config(model={"path": str(path), "lora": lora}, **sections)


@pytest.fixture
def model(tmp_path):
    return save_family("qwen2", tmp_path / "model")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_accepted_without_its_weights(name, tmp_path):
    path = save_family(name, tmp_path / name)
    (path / "model.safetensors").unlink()
    targets = {"targets": TARGETS[name]} if name in TARGETS else {}
    for lora in (None, {"rank": 4, **targets}):
        check_model(config(path, lora))


def test_the_embedded_model_is_not_looked_at():
    check_model(learner_config())


def test_layers_that_the_model_does_not_have_are_refused(tmp_path):
    path = save_family("gpt2", tmp_path)
    with pytest.raises(UserError, match=r"names 'q_proj', which is no layer of GPT2LMHeadModel, .* c_attn, c_fc, c_pr"):
        check_model(config(path, {"rank": 4}))


def test_a_mixture_of_experts_is_refused(model):
    sizes = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
    Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **sizes)).save_pretrained(model)
    with pytest.raises(UserError, match="Qwen3MoeForCausalLM is stored in another arrangement"):
        check_model(config(model))


def test_a_quantised_model_is_refused(model):
    edit_json(model / "config.json", quantization_config={"quant_method": "fp8"})
    with pytest.raises(UserError, match=r"is quantised \(fp8\)"):
        check_model(config(model))


@pytest.mark.parametrize("beside", [True, False])
def test_an_adapter_is_refused_by_its_name_whoever_reads_the_folder(model, beside):
    if not beside:
        (model / "config.json").unlink()
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somewhere/else"}))
    sentence = "holds an adapter beside its weights" if beside else r"is an adapter \(adapter_config.json\)"
    for read in (lambda: check_model(config(model)), lambda: load_causal_lm(model, "float32")):
        with pytest.raises(UserError, match=sentence) as refused:
            read()
        assert "experts" not in str(refused.value)
        assert "peft's merge_and_unload" in str(refused.value)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "no_such_model"}', None])
def test_a_damaged_folder_is_refused_in_one_line(model, file, content):
    (model / file).unlink() if content is None else (model / file).write_text(content)
    with pytest.raises(UserError, match=f"transformers does not load model.path = {model}: ") as refused:
        check_model(config(model))
    assert "\n" not in str(refused.value)


def test_vision_without_a_text_model_of_its_own_is_refused(model):
    edit_json(model / "config.json", model_type="qwen2_5_vl", architectures=["Qwen2_5_VLForConditionalGeneration"])
    with pytest.raises(UserError, match=r"reads more than text \(qwen2_5_vl\)"):
        check_model(config(model))


@pytest.fixture(params=ROPES)
def stretched(request, model):
    """A model whose frequencies follow from the longest sequence of a pass, above `ORIGINAL` tokens."""
    positions = ORIGINAL if request.param == "dynamic" else 4 * ORIGINAL
    edit_json(model / "config.json", rope_parameters=ROPES[request.param], max_position_embeddings=positions)
    return model


def hidden(path, lengths, layout):
    """The final hidden states of sequences of these lengths, read in one pass by the learner's model."""
    lm = CausalLM(load_causal_lm(path, "float32").eval())
    assert choose_layout(lm.model, layout) == layout
    ids = [np.arange(length, dtype=np.int32) % 200 + 3 for length in lengths]
    for each in ids:
        each[-3:] = 210 + len(each)  # in a tree, a branch for each
    inputs = collate([(each[:1], each[1:]) for each in ids], layout, torch.device("cpu"))
    with torch.no_grad():
        return lm(inputs, lambda hidden_NH, head: hidden_NH).split([length - 1 for length in lengths])


@pytest.mark.parametrize("layout", ["tree", "packed", "padded"])
def test_up_to_the_length_allowed_no_sequence_depends_on_the_others_of_its_pass(stretched, layout):
    check_lengths(stretched, read_config(stretched), ORIGINAL)
    lengths = (20, ORIGINAL, 22)
    for length, states in zip(lengths, hidden(stretched, lengths, layout), strict=True):
        assert torch.allclose(states, hidden(stretched, (length,), layout)[0], atol=1e-4)


@pytest.mark.parametrize("layout", ["tree", "packed", "padded"])
def test_a_run_that_allows_longer_ones_is_refused_because_they_would(stretched, layout):
    short, _ = hidden(stretched, (20, 2 * ORIGINAL), layout)
    assert float((short - hidden(stretched, (20,), layout)[0]).abs().max()) > 0.1
    limits = {"max_prompt_tokens": ORIGINAL - 4, "max_completion_tokens": 5}
    with pytest.raises(UserError, match=rf"above {ORIGINAL} tokens .* allows {ORIGINAL + 1}; lower"):
        check_model(config(stretched, rollout=limits))
    check_model(config(stretched, rollout={**limits, "max_completion_tokens": 4}))


def test_what_the_engine_makes_room_for_counts_too(stretched):
    """vLLM takes the frequencies of longrope from its own limit, once for all."""
    limits = {"max_prompt_tokens": 8, "max_completion_tokens": 8, "engine": {"type": "vllm", "max_model_len": 40}}
    with pytest.raises(UserError, match="allows 40"):
        check_model(config(stretched, rollout=limits))


def test_a_checkpoint_of_each_family_has_what_loads_it(tmp_path):
    """The files that `companions` returns and the weights are a model."""
    from safetensors.torch import save_file

    from unisd_rl.models.load import WEIGHTS, companions, write_companions

    for name in ("qwen3", "gpt2", "smollm2"):
        path, copy = save_family(name, tmp_path / name), tmp_path / f"{name} copied"
        copy.mkdir()
        write_companions(companions(path, "float32"), copy)
        lm = load_causal_lm(path, "float32")
        save_file({key: value.clone() for key, value in lm.state_dict().items()}, copy / WEIGHTS)
        ids = torch.arange(9)[None]
        with torch.no_grad():
            assert torch.equal(AutoModelForCausalLM.from_pretrained(copy)(ids).logits, lm(ids).logits)


@pytest.mark.parametrize("lora", [None, {"rank": 4, "targets": ["nowhere"]}])
def test_a_run_asks_before_it_has_a_folder_or_a_cluster(model, tmp_path, lora):
    from unisd_rl.driver.console import Console
    from unisd_rl.train import run_job

    if lora is None:
        (model / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"adapter_config.json|names 'nowhere'"):
        run_job(config(model, lora, run={"dir": str(tmp_path / "runs")}), False, Console())
    assert not (tmp_path / "runs").exists()

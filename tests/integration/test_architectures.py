"""Real DeepSpeed on tiny random models of each kind: they take steps of UniSD*, and packing changes no gradient."""

import math
from dataclasses import replace

import pytest
import torch

from tests.fakes.learner_findings import Found
from tests.fakes.learner_rig import VOCABULARY, Case, learner_config, make_rollouts

STEPS = 5
WINDOW = 6
ROLLOUTS = make_rollouts(count=8)
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
KINDS = ("qwen2", "llama", "gemma3", "qwen3")


def make(kind, folder):
    from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen2Config, Qwen3Config

    windows = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
    config = {
        "qwen2": lambda: Qwen2Config(**SIZES),
        "llama": lambda: LlamaConfig(**SIZES),
        "gemma3": lambda: Gemma3TextConfig(**SIZES, **windows, query_pre_attn_scalar=8),
        "qwen3": lambda: Qwen3Config(**SIZES),
    }[kind]()
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("architectures")
    cases = []
    for kind in KINDS:
        learner = {"packed": True, "learning_rate": 3e-3}
        packed = Case(kind, learner_config(learner=learner), make(kind, folder / "models" / kind), (ROLLOUTS,), STEPS)
        rows = learner_config(learner={"packed": False})
        cases += [packed, replace(packed, name=f"{kind} padded", config=rows, steps=1)]
    return Found(folder, cases, ranks=1)


def test_sequences_are_longer_than_the_window():
    longest = [max(len(view.tokens) for view in one.views) + len(one.completion_tokens) for one in ROLLOUTS]
    assert min(longest) > WINDOW


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_steps_improve_the_loss_on_the_same_batch(found, kind):
    losses = [report["loss"] for report in found[kind]["reports"]]
    assert losses[-1] < 0.9 * losses[0], losses


@pytest.mark.parametrize("kind", KINDS)
def test_all_five_mechanisms_act(found, kind):
    first, second = found[kind]["reports"][:2]
    assert 0 < first["clipped_share"] < 1
    assert first["effective_sample_size"] < 0.99
    assert first["contrastive_active_share"] > 0
    assert first["matching_loss"] > 0
    assert second["teacher_update_norm"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_have_the_gradient_of_padded_ones(found, kind):
    packed, padded = found[kind]["gradient 0"], found[f"{kind} padded"]["gradient 0"]
    assert packed.keys() == padded.keys()
    error = sum(float((packed[name].double() - padded[name].double()).square().sum()) for name in padded)
    assert math.sqrt(error / sum(float(one.double().square().sum()) for one in padded.values())) < 1e-5
    assert found[kind]["reports"][0]["padding_share"] == 0
    assert found[f"{kind} padded"]["reports"][0]["padding_share"] > 0

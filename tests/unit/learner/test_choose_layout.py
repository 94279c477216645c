"""A model is read as a tree, or packed, only if a trial shows that each sequence gets what it gets alone."""

from dataclasses import replace

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from learner.attention import PACKED, sees
from learner.layout import choose_layout, reads_rows
from tests.fakes.attention_models import MODELS, SIZES, ids, make, states
from unisd_rl.models.load import load_causal_lm


@pytest.mark.parametrize("name", ["qwen2 with windows", "mistral", "gemma3"])
def test_windows_are_felt(name):
    model = make(name)
    wide = states(model, ids(13))
    for owner in (model.config, *model.modules()):
        if getattr(owner, "sliding_window", None):
            owner.sliding_window = 64
    assert float((states(model, ids(13)) - wide).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["qwen2", "gemma3"])
@pytest.mark.parametrize("layout", ["packed", "tree"])
def test_the_trial_leaves_the_model_as_it_was(name, layout):
    model = make(name)
    before, windows = states(model, ids(13)), [getattr(one, "sliding_window", None) for one in model.modules()]
    assert reads_rows(model, layout)
    assert model.config._attn_implementation == "sdpa"
    assert [getattr(one, "sliding_window", None) for one in model.modules()] == windows
    assert torch.equal(states(model, ids(13)), before)


@pytest.mark.parametrize("layout", ["packed", "tree"])
def test_in_bfloat16_models_read_them_too(layout):
    for name in MODELS:
        assert reads_rows(make(name).bfloat16(), layout), name


class Deaf(LlamaForCausalLM):
    """Its decoder takes keywords and passes none on."""

    def get_decoder(self):
        decoder = super().get_decoder()
        return lambda input_ids, use_cache, **_: decoder(input_ids=input_ids, use_cache=use_cache)


class Strict(LlamaForCausalLM):
    """Its decoder knows no keywords."""

    def get_decoder(self):
        decoder = super().get_decoder()
        return lambda input_ids, use_cache: decoder(input_ids=input_ids, use_cache=use_cache)


class Own(LlamaForCausalLM):
    """Its attention does not go through the interface."""

    def set_attn_implementation(self, name):
        pass


def mamba():
    return MambaForCausalLM(
        MambaConfig(vocab_size=32, hidden_size=16, state_size=4, num_hidden_layers=1, initializer_range=0.5)
    )


@pytest.mark.parametrize(
    "make_model", [*(lambda kind=kind: kind(LlamaConfig(**SIZES)) for kind in (Deaf, Strict, Own)), mamba]
)
def test_a_model_that_would_mix_sequences_is_padded(make_model):
    torch.manual_seed(5)
    model = make_model().eval()
    attention = model.config._attn_implementation
    assert choose_layout(model, "tree") == "padded"
    assert model.config._attn_implementation == attention
    assert choose_layout(model, "packed") == "padded"


class Shifting(LlamaForCausalLM):
    """Each token is mixed with the one before it in the row, but at the beginning of a sequence."""

    def get_decoder(self):
        decoder = super().get_decoder()

        def read(input_ids, use_cache, position_ids=None, **keywords):
            positions = torch.arange(input_ids.shape[1])[None] if position_ids is None else position_ids
            embedded = decoder.embed_tokens(input_ids)
            mixed = embedded + embedded.roll(1, 1) * (positions > 0)[..., None]
            return decoder(inputs_embeds=mixed, use_cache=use_cache, position_ids=positions, **keywords)

        return read


class Forgetful(LlamaForCausalLM):
    """Its attention sees no prefix that lies in several parts of the row."""

    def get_decoder(self):
        decoder = super().get_decoder()

        def read(input_ids, use_cache, packing=None, **keywords):
            if packing is not None:
                prefixes = tuple(prefix if len(prefix) < 2 else () for prefix in packing.prefixes)
                keywords["packing"] = replace(packing, prefixes=prefixes)
            return decoder(input_ids=input_ids, use_cache=use_cache, **keywords)

        return read


@pytest.mark.parametrize("kind", [Shifting, Forgetful])
def test_a_model_that_is_right_packed_and_wrong_in_a_tree_is_packed(kind):
    torch.manual_seed(5)
    assert choose_layout(kind(LlamaConfig(**SIZES)).eval(), "tree") == "packed"


def test_a_trial_that_sees_one_token_too_few_behind_a_branch_is_found(monkeypatch):
    """A window counted within the tokens that a sequence does not share."""

    def sees_no_prefix_at_its_end(query, key, depth_T, subtree_end_T, window):
        seen = sees(query, key, depth_T, subtree_end_T, window)
        return seen if window is None else seen & (query - key < window)

    assert reads_rows(make("mistral"), "tree")
    monkeypatch.setattr("learner.attention.sees", sees_no_prefix_at_its_end)
    assert not reads_rows(make("mistral"), "tree")
    assert reads_rows(make("llama"), "tree")


def test_a_kernel_that_the_machine_cannot_run_leaves_the_packed_layout(monkeypatch, capsys):
    def fails(*_):
        raise RuntimeError("no kernel for this tree")

    monkeypatch.setattr("learner.attention._mask", fails)
    assert choose_layout(make("llama"), "tree") == "packed"
    assert "layout tree is not for LlamaForCausalLM: no kernel for this tree" in capsys.readouterr().err


def test_an_attention_soft_cap_is_padded_and_not_left_out(tmp_path):
    torch.manual_seed(5)
    Gemma2ForCausalLM(Gemma2Config(**SIZES, attn_logit_softcapping=0.1)).save_pretrained(tmp_path)
    model = load_causal_lm(tmp_path, "float32")
    capped = states(model, ids(9))
    model.set_attn_implementation("sdpa")
    assert not torch.allclose(states(model, ids(9)), capped, atol=1e-3)
    model.set_attn_implementation("eager")
    assert choose_layout(model, "tree") == "padded"
    assert torch.equal(states(model, ids(9)), capped)


def test_each_layout_can_be_asked_for():
    model = make("qwen2")
    assert choose_layout(model, "padded") == "padded"
    assert model.config._attn_implementation == "sdpa"
    for layout in ("packed", "tree"):
        model.set_attn_implementation("sdpa")
        assert choose_layout(model, layout) == layout
        assert model.config._attn_implementation == PACKED

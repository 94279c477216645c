"""A packed row gives each sequence what it gets alone, or the model is read in padded rows."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from learner.attention import (
    PACKED,
    NotPackable,
    Packing,
    _flash,
    choose_attention,
    packed_attention,
    reads_packed_rows,
)
from unisd_rl.errors import UserError
from unisd_rl.models.load import load_causal_lm

LENGTHS = (9, 1, 5, 13)
WINDOW = 4
HERE = Path("here")
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


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("recomputed", [False, True])
def test_a_packed_row_has_the_states_and_gradients_of_its_sequences_alone(name, recomputed):
    model, direction = make(name), torch.randn(sum(LENGTHS), 16, generator=torch.Generator().manual_seed(1))
    alone = torch.cat([states(model, ids(length)) for length in LENGTHS])
    (alone * direction).sum().backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    assert choose_attention(model, None, HERE)
    if recomputed:
        model.train().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for module in model.modules():  # GPT-2 has dropout by default
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    together = states(
        model, torch.cat([ids(length) for length in LENGTHS]), **Packing.of(LENGTHS, torch.device("cpu")).keywords()
    )
    assert torch.allclose(together, alone, atol=1e-5 * float(alone.detach().abs().max()))
    (together * direction).sum().backward()
    for key, gradient in expected.items():
        assert torch.allclose(model.get_parameter(key).grad, gradient, atol=1e-4 * float(gradient.abs().max()) + 1e-7)


@pytest.mark.parametrize("name", ["qwen2 with windows", "mistral", "gemma3"])
def test_windows_are_felt(name):
    model = make(name)
    wide = states(model, ids(13))
    for owner in (model.config, *model.modules()):
        if getattr(owner, "sliding_window", None):
            owner.sliding_window = 64
    assert float((states(model, ids(13)) - wide).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["qwen2", "gemma3"])
def test_the_trial_leaves_the_model_as_it_was(name):
    model = make(name)
    before, windows = states(model, ids(13)), [getattr(one, "sliding_window", None) for one in model.modules()]
    assert reads_packed_rows(model)
    assert model.config._attn_implementation == "sdpa"
    assert [getattr(one, "sliding_window", None) for one in model.modules()] == windows
    assert torch.equal(states(model, ids(13)), before)


def test_in_bfloat16_models_read_packed_rows_too():
    for name in MODELS:
        assert reads_packed_rows(make(name).bfloat16()), name


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
def test_a_model_that_would_mix_sequences_is_padded_or_refused(make_model):
    torch.manual_seed(5)
    model = make_model().eval()
    attention = model.config._attn_implementation
    assert not choose_attention(model, None, HERE)
    assert model.config._attn_implementation == attention
    with pytest.raises(UserError, match=f"learner.packed = true, but {type(model).__name__} of model.path = here"):
        choose_attention(model, True, HERE)


def test_an_attention_soft_cap_is_padded_and_not_left_out(tmp_path):
    torch.manual_seed(5)
    Gemma2ForCausalLM(Gemma2Config(**SIZES, attn_logit_softcapping=0.1)).save_pretrained(tmp_path)
    model = load_causal_lm(tmp_path, "float32")
    capped = states(model, ids(9))
    model.set_attn_implementation("sdpa")
    assert not torch.allclose(states(model, ids(9)), capped, atol=1e-3)
    model.set_attn_implementation("eager")
    assert not choose_attention(model, None, HERE)
    assert torch.equal(states(model, ids(9)), capped)


def test_padding_can_be_asked_for():
    model = make("qwen2")
    assert not choose_attention(model, False, HERE)
    assert model.config._attn_implementation == "sdpa"
    assert choose_attention(model, True, HERE)
    assert model.config._attn_implementation == PACKED


def test_a_row_without_packing_or_with_a_mask_is_refused():
    row = torch.zeros(1, 2, 4, 8)
    packing = Packing.of([4], torch.device("cpu"))
    for mask, given in ((None, None), (torch.zeros(1, 1, 4, 4), packing)):
        with pytest.raises(NotPackable, match="needs its packing, and no mask"):
            packed_attention(nn.Module(), row, row, row, mask, packing=given)
    with pytest.raises(NotPackable, match="Module wants s_aux"):
        packed_attention(nn.Module(), row, row, row, None, packing=packing, s_aux=torch.zeros(2))


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, WINDOW])
def test_the_flash_kernel_agrees_with_attention_sequence_by_sequence(window):
    torch.manual_seed(5)
    query, key, value = (torch.randn(1, heads, sum(LENGTHS), 16, device="cuda") for heads in (4, 2, 2))
    direction = torch.randn(1, sum(LENGTHS), 4, 16, device="cuda")
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        leaves = [one.to(dtype).requires_grad_() for one in (query, key, value)]
        packing = Packing.of(LENGTHS, query.device)
        out, _ = packed_attention(nn.Module(), *leaves, None, packing=packing, scaling=0.3, sliding_window=window)
        (out.float() * direction).sum().backward()
        found.append([out, *(leaf.grad for leaf in leaves)])
    for exact, narrow in zip(*found, strict=True):
        assert torch.allclose(narrow.float(), exact, atol=3e-2 * float(exact.abs().max()))


@pytest.mark.parametrize("window,expected", [(None, (-1, 0)), (WINDOW, (WINDOW - 1, 0))])
def test_the_flash_kernel_is_asked_for_the_right_spans(monkeypatch, window, expected):
    """Without a GPU: a kernel written as a loop, by its documentation, stands in for torch's."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", loop_attention)
    query, key, value = (torch.randn(1, heads, sum(LENGTHS), 8) for heads in (4, 2, 2))
    packing = Packing.of(LENGTHS, torch.device("cpu"))
    found = _flash(query, key, value, packing, 0.3, window)
    exact, _ = packed_attention(
        nn.Module(), query, key, value, None, packing=packing, scaling=0.3, sliding_window=window
    )
    assert torch.allclose(found, exact, atol=1e-5)
    assert loop_attention.window == expected


def loop_attention(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):
    assert enable_gqa
    assert torch.equal(cu_seq_q, cu_seq_k)
    assert max_q == max_k == int(cu_seq_q.diff().max())
    loop_attention.window = window_size
    left, right = window_size
    assert right == 0
    out = torch.empty_like(query)
    for start, stop in pairwise(cu_seq_q.tolist()):
        for at in range(start, stop):
            first = start if left < 0 else max(start, at - left)
            for head in range(query.shape[1]):
                group = head * key.shape[1] // query.shape[1]
                weights = (key[first : at + 1, group] @ query[at, head] * scale).softmax(0)
                out[at, head] = weights @ value[first : at + 1, group]
    return out

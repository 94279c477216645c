"""A model's shape is what a hand counts in it, and takes no weight."""

import pytest
from transformers import GPT2Config, LlamaConfig, Qwen2Config

from unisd_rl.config.model import ModelConfig
from unisd_rl.models.shape import shape_of

V, H, F, HEADS, GROUPS, WIDTH = 96, 32, 80, 4, 2, 8
FULL, LORA = ModelConfig(), ModelConfig.model_validate({"lora": {"rank": 3}})
BFLOAT16 = ModelConfig(dtype="bfloat16")


def llama(layers, tied=True):
    return LlamaConfig(
        vocab_size=V,
        hidden_size=H,
        intermediate_size=F,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        head_dim=WIDTH,
        tie_word_embeddings=tied,
    )


def test_weights_are_counted_once_and_an_adapters_factors_apart():
    attention, mlp = H * HEADS * WIDTH * 2 + H * GROUPS * WIDTH * 2, 3 * H * F
    whole = V * H + 2 * (attention + mlp + 2 * H) + H
    shape = shape_of(llama(2), FULL)
    assert (shape.parameters, shape.trained, shape.largest) == (whole, whole, V * H)
    assert (shape.head, shape.vocabulary, shape.hidden, shape.layers) == (V * H, V, H, 2)
    assert shape_of(llama(2, tied=False), FULL).parameters == whole + V * H
    query, key, up = H + HEADS * WIDTH, H + GROUPS * WIDTH, H + F  # in + out of each adapted layer
    adapted = shape_of(llama(2), LORA)
    assert adapted.parameters == whole
    assert adapted.trained == 2 * 3 * (2 * query + 2 * key + 3 * up)
    assert adapted.largest == 3 * F


def test_keys_and_values_of_a_token_are_those_of_all_layers():
    assert shape_of(llama(5), FULL).keys_and_values == 5 * 2 * GROUPS * WIDTH


@pytest.mark.parametrize("settings,width", [(FULL, 4), (BFLOAT16, 2)])
def test_a_layer_keeps_what_autograd_needs_of_it(settings, width):
    """Two norms keep their input, what they make of it and their output; attention its three inputs, its output and a
    copy in another order; the gated layer four tensors of its width. In bfloat16 norms compute in float32."""
    query, key = HEADS * WIDTH, GROUPS * WIDTH
    norms = 2 * (3 * H * 4 + 4) if width == 4 else 2 * (H * 4 + 2 * H * 2 + 4)
    expected = norms + (3 * query + 2 * key + 4 * F) * width
    found = shape_of(llama(4), settings).kept_bytes - shape_of(llama(3), settings).kept_bytes
    assert found == pytest.approx(expected, rel=0.02)
    assert shape_of(llama(2), settings).widest_bytes == F * width


@pytest.mark.parametrize(
    "config",
    [GPT2Config(vocab_size=V, n_embd=H, n_layer=2, n_head=2), Qwen2Config(**llama(2).to_dict())],
    ids=["gpt2", "qwen2"],
)
def test_other_families_are_counted_too(config):
    shape = shape_of(config, FULL)
    assert shape.layers == 2
    assert shape.kept_bytes > 2 * 4 * (6 * H)

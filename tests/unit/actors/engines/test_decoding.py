import math

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from actors.engines.decoding import Row, check_decoding, sample
from actors.engines.engine import EngineRefused
from tests.fakes.families import FAMILIES, family_model
from unisd_rl.types import PolicyVersion, Sampling

LOGITS = torch.log(torch.tensor([[0.5, 0.1, 0.4], [0.2, 0.7, 0.1]]))


def drawn(temperature, top_p, uniforms, top_k=None):
    sampling = Sampling(temperature, top_p, 8, top_k=top_k)
    tokens, logprobs = sample(LOGITS, [sampling, sampling], torch.tensor(uniforms, dtype=torch.float64))
    return tokens.tolist(), logprobs.tolist()


def test_a_uniform_number_falls_into_the_token_whose_share_of_the_line_it_hits():
    # Row 0: [0, 0.5) -> 0, [0.5, 0.6) -> 1, [0.6, 1) -> 2. Row 1: [0, 0.2) -> 0, [0.2, 0.9) -> 1, [0.9, 1) -> 2.
    for uniforms, expected in (([0.49, 0.19], [0, 0]), ([0.51, 0.21], [1, 1]), ([0.61, 0.91], [2, 2])):
        tokens, logprobs = drawn(1.0, 1.0, uniforms)
        assert tokens == expected
        assert logprobs == pytest.approx([LOGITS[row, token].item() for row, token in enumerate(expected)])


def test_log_probs_are_at_the_sampling_temperature():
    # At temperature 0.5 probabilities are squared and renormalised: 0.25, 0.01, 0.16 over 0.42.
    tokens, logprobs = drawn(0.5, 1.0, [0.99, 0.5])
    assert tokens[0] == 2
    assert logprobs[0] == pytest.approx(math.log(0.16 / 0.42), abs=1e-6)


def test_greedy_takes_the_likeliest_and_reports_plain_log_probs():
    tokens, logprobs = drawn(0.0, 1.0, [0.99, 0.99])
    assert tokens == [0, 1]
    assert logprobs == pytest.approx([math.log(0.5), math.log(0.7)])


def test_the_nucleus_is_the_fewest_tokens_that_reach_top_p_renormalised():
    # Row 0 at 0.6 keeps 0.5 and 0.4; row 1 keeps 0.7 alone.
    tokens, logprobs = drawn(1.0, 0.6, [0.99, 0.01])
    assert tokens == [2, 1]
    assert logprobs == pytest.approx([math.log(0.4 / 0.9), 0.0], abs=1e-6)


def test_the_top_k_are_the_likeliest_tokens_renormalised():
    # Row 0 keeps 0.5 and 0.4 of 0.9, row 1 keeps 0.2 and 0.7 of 0.9.
    tokens, logprobs = drawn(1.0, 1.0, [0.99, 0.01], top_k=2)
    assert tokens == [2, 0]
    assert logprobs == pytest.approx([math.log(0.4 / 0.9), math.log(0.2 / 0.9)], abs=1e-6)
    assert drawn(1.0, 1.0, [0.55, 0.95], top_k=7) == drawn(1.0, 1.0, [0.55, 0.95])  # the vocabulary has three


def test_the_nucleus_is_of_what_top_k_left():
    # Of 0.5, 0.4, 0.1 the two likeliest are 5/9 and 4/9: at 0.54 the first alone is the nucleus. Without top_k it needs
    # both. Row 1: 7/9 alone.
    tokens, logprobs = drawn(1.0, 0.54, [0.99, 0.99], top_k=2)
    assert tokens == [0, 1]
    assert logprobs == pytest.approx([0.0, 0.0], abs=1e-6)
    assert drawn(1.0, 0.54, [0.99, 0.99])[0] == [2, 1]


def test_rows_of_one_group_are_cut_each_by_its_own_settings():
    alone, all_of_it = Sampling(1.0, 1.0, 8, top_k=1), Sampling(1.0, 1.0, 8)
    tokens, logprobs = sample(LOGITS, [alone, all_of_it], torch.tensor([0.99, 0.95], dtype=torch.float64))
    assert tokens.tolist() == [0, 2]
    assert logprobs.tolist() == pytest.approx([0.0, math.log(0.1)], abs=1e-6)


def test_only_allowed_tokens_are_sampled_and_other_rows_stay_as_they_are():
    only, free = Sampling(0.0, 1.0, 1, allowed=(1, 2)), Sampling(0.0, 1.0, 1)
    before = LOGITS.clone()
    tokens, logprobs = sample(LOGITS, [only, free], torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert tokens.tolist() == [2, 1]  # of row 0 token 0 is the likeliest
    assert logprobs.tolist() == pytest.approx([math.log(0.4 / 0.5), math.log(0.7)])
    assert torch.equal(before, LOGITS)


def test_a_uniform_number_of_one_does_not_leave_the_vocabulary():
    tokens, _ = drawn(1.0, 1.0, [1.0, 1.0])
    assert max(tokens) <= 2


def test_a_rows_random_numbers_follow_from_its_seed_alone():
    first, again, other = (Row.start(torch.zeros(1).numpy(), Sampling(1.0, 1.0, 5, seed)) for seed in (3, 3, 4))
    assert first.uniforms.equal(again.uniforms)
    assert not first.uniforms.equal(other.uniforms)


def test_a_row_ends_with_its_stop_token_or_its_limit():
    version = PolicyVersion(1, 2)
    stopped, limited = (Row.start(torch.zeros(1).numpy(), Sampling(1.0, 1.0, 2, 0)) for _ in range(2))
    stopped.append(9, -0.5, version, frozenset({9}))
    limited.append(3, -0.5, version, frozenset({9}))
    assert (stopped.finish_reason, limited.finish_reason) == ("stop", None)
    limited.append(3, -0.5, version, frozenset({9}))
    generation = limited.generation()
    assert generation.finish_reason == "length"
    assert generation.lineages.tolist() == [1, 1]
    assert generation.versions.tolist() == [2, 2]


def family(name):
    """A small random model of a family, by its configuration's name."""
    sizes = {"vocab_size": 40, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = {
        "bart": {
            "d_model": 16,
            "decoder_layers": 2,
            "decoder_attention_heads": 2,
            "decoder_ffn_dim": 16,
            "init_std": 0.5,
        },
        "mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "initializer_range": 0.5},
        "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.5},
        "opt": {"hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "init_std": 0.5},
    }[name]
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **sizes, **config)).eval()


@pytest.mark.parametrize("name", ["bloom", "opt"])
def test_a_model_whose_positions_come_from_the_mask_is_served(name):
    check_decoding(family(name))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_that_is_trained_is_served(name):
    if name != "gemma3":  # whose text decoder is (tests/integration/test_architectures.py)
        check_decoding(family_model(name))


def test_a_model_that_counts_positions_from_the_padding_on_is_refused():
    with pytest.raises(EngineRefused, match="BartForCausalLM gives a token another log-prob in a padded group"):
        check_decoding(family("bart"))


def test_a_model_without_keys_and_values_is_refused():
    with pytest.raises(EngineRefused, match="the transformers engine cannot decode with MambaForCausalLM"):
        check_decoding(family("mamba"))

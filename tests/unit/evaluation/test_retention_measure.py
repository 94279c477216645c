"""What two models say of the same completions, against a slow float64 reading of one completion at a time."""

import math

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, Qwen2Config, Qwen2ForCausalLM

from learner.model import CausalLM
from unisd_rl.errors import UserError
from unisd_rl.evaluation.retention import Completion
from unisd_rl.evaluation.retention_measure import Sizes, retention

VOCABULARY = 40
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.6, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0, "attn_implementation": "eager",
}  # fmt: skip
KINDS = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=2.0)),
}


def model(seed, kind="qwen2"):
    torch.manual_seed(seed)
    return KINDS[kind]().eval()


def completions(lengths):
    """Random prompts and completions of these lengths."""
    draw = np.random.default_rng(0)

    def tokens(length):
        return tuple(draw.integers(3, VOCABULARY, size=length).tolist())

    return [Completion(f"p{i}", 0, tokens(prompt), tokens(length)) for i, (prompt, length) in enumerate(lengths)]


GOLD = completions([(4, 6), (2, 1), (7, 3)])
OWN = completions([(3, 2), (5, 9), (1, 4), (6, 1)])


@torch.no_grad()
def log_probs(network, completion):
    """`logp_TV` in float64: one completion, the whole vocabulary, the model's own head."""
    ids = torch.tensor([[*completion.prompt_tokens, *completion.tokens]])
    logits_LV = network.double()(input_ids=ids).logits[0].double()
    network.float()
    return logits_LV[len(completion.prompt_tokens) - 1 : -1].log_softmax(-1)


def expected_likelihood(network, completion):
    return sum(float(row[token]) for row, token in zip(log_probs(network, completion), completion.tokens, strict=True))


def expected_jsd(one, other, completion):
    total = 0.0
    for logp, logq in zip(log_probs(one, completion), log_probs(other, completion), strict=True):
        p, q = logp.exp(), logq.exp()
        middle = ((p + q) / 2).log()
        total += float((p * (logp - middle)).sum() / 2 + (q * (logq - middle)).sum() / 2)
    return total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [Sizes(2, 3), Sizes(8, 256)], ids=["small_chunks", "large_chunks"])
def test_every_completion_has_the_numbers_of_a_slow_float64_reading(kind, sizes):
    adapted, base = model(1, kind), model(2, kind)
    found = retention(CausalLM(adapted), CausalLM(base), GOLD, OWN, sizes)
    fits = [expected_likelihood(adapted, one) for one in GOLD]
    returns = [expected_likelihood(base, one) for one in OWN]
    divergences = [expected_jsd(adapted, base, one) for one in OWN]
    assert [one.id for one in found.gold] == [one.id for one in GOLD]
    assert [one.logprob for one in found.gold] == pytest.approx(fits, rel=1e-5)
    assert [drift.likelihood.logprob for drift in found.answers] == pytest.approx(returns, rel=1e-5)
    assert [drift.divergence for drift in found.answers] == pytest.approx(divergences, rel=1e-5, abs=1e-7)
    assert min(divergences) > 1e-3
    assert found.ppl_ret == pytest.approx(math.exp(-sum(returns) / sum(len(one.tokens) for one in OWN)), rel=1e-5)


def test_a_model_beside_itself_has_not_moved_and_its_retention_is_its_own_perplexity():
    network = model(1)
    found = retention(CausalLM(network), CausalLM(network), OWN, OWN, Sizes(3, 5))
    assert found.jsd == 0.0
    assert found.ppl_ret == found.ppl_fit


def test_a_uniform_model_has_the_size_of_the_vocabulary_as_perplexity():
    network = model(1)
    torch.nn.init.zeros_(network.lm_head.weight)
    found = retention(CausalLM(network), CausalLM(model(2)), GOLD, OWN, Sizes(4, 64))
    assert found.ppl_fit == pytest.approx(VOCABULARY)


def test_distributions_that_never_meet_are_ln_2_apart():
    one, other = model(1), model(1)
    for network, token in ((one, 5), (other, 6)):
        network.lm_head = torch.nn.Linear(16, VOCABULARY)
        torch.nn.init.zeros_(network.lm_head.weight)
        network.lm_head.bias.data = torch.nn.functional.one_hot(torch.tensor(token), VOCABULARY) * 100.0
    found = retention(CausalLM(one), CausalLM(other), [], OWN, Sizes(4, 64))
    assert found.jsd == pytest.approx(math.log(2), rel=1e-6)


def test_a_completion_without_tokens_is_left_out():
    empty = Completion("empty", 0, (4, 5), ())
    found = retention(CausalLM(model(1)), CausalLM(model(2)), [empty], [empty, *OWN], Sizes(2, 8))
    assert found.gold == ()
    assert [drift.likelihood.id for drift in found.answers] == [one.id for one in OWN]


def test_another_vocabulary_is_refused():
    torch.manual_seed(0)
    larger = Qwen2ForCausalLM(Qwen2Config(**{**SIZES, "vocab_size": 41}))
    with pytest.raises(UserError, match=r"41 tokens in its vocabulary and the model 40"):
        retention(CausalLM(model(1)), CausalLM(larger), GOLD, OWN, Sizes(2, 8))

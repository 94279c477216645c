"""What is kept of a step's tokens is what was measured at them, wherever their rollout lies in the batch."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from learner.batch import PackingConfig, RankBatch
from learner.token_samples import MOST_TOKENS, sampled_tokens, token_samples
from unisd_rl.objective.kernels.chunked import token_entropies
from unisd_rl.objective.kernels.head import Head
from unisd_rl.types import Rollout, Source


def rollout(number, length, source=Source.POLICY):
    tokens = np.arange(100 * number, 100 * number + length, dtype=np.int32)
    versions = None if source is Source.GOLD else np.full(length, number, np.int32)
    return Rollout(
        number, f"p{number}", source, np.array([1], np.int32), (), tokens, None, None, versions, "stop", 0, "a", 0.0, 1
    )  # fmt: skip


def batch_of(*rollouts):
    return RankBatch(rollouts, torch.device("cpu"), PackingConfig("packed", 6, 100))


def sampled(batch, numbers, cuts):
    """The samples where each measure of a token is a function of its place in the batch; `cuts` are those of passes."""
    place_N = torch.arange(batch.tokens, dtype=torch.float64)
    sampled_N = sampled_tokens(batch, numbers)
    mask_N = torch.from_numpy(sampled_N)
    passes = [
        (
            SimpleNamespace(student_logprob_N=-place_N[a:b], token_values={"weight": place_N[a:b] / 2}),
            (place_N[a:b] * 3)[mask_N[a:b]],
        )
        for a, b in zip((0, *cuts), (*cuts, batch.tokens), strict=True)
    ]
    inputs = SimpleNamespace(primary_N=place_N + 0.5, negative_N=None)
    return token_samples(batch, numbers, sampled_N, inputs, passes)


@pytest.mark.parametrize("cuts", [(), (3,), (5, 9)])
def test_each_token_has_its_own_numbers_on_any_cut_into_passes(cuts):
    batch = batch_of(rollout(0, 3), rollout(1, 5), rollout(2, 0), rollout(3, 4, Source.GOLD))
    found = sampled(batch, {1, 2, 3, 99}, cuts)
    assert {sample.number for sample in found} == {1, 3}  # one has no token, another is not here
    for sample in found:
        row = [each.number for each in batch.rollouts].index(sample.number)
        places = np.arange(batch.starts[row], batch.starts[row + 1], dtype=np.float32)
        assert sample.tokens.tolist() == batch.rollouts[row].completion_tokens.tolist()
        expected = {"logprob": -places, "weight": places / 2, "primary": places + 0.5, "entropy": places * 3}
        assert {name: value.tolist() for name, value in sample.values.items()} == {
            name: value.tolist() for name, value in expected.items()
        }
        assert (sample.versions is None) == (sample.source is Source.GOLD)


def test_of_a_long_completion_the_first_tokens_are_kept_and_its_length_is_told():
    batch = batch_of(rollout(0, 2), rollout(1, MOST_TOKENS + 50))
    (sample,) = sampled(batch, {1}, ())
    assert len(sample.tokens) == len(sample.versions) == len(sample.values["entropy"]) == MOST_TOKENS
    assert sample.length == MOST_TOKENS + 50


@pytest.mark.parametrize("chunk", [2, 100])
def test_entropy_is_that_of_the_softmax_at_the_temperature(chunk):
    torch.manual_seed(0)
    hidden_NH, weight_VH, bias_V = torch.randn(5, 4), torch.randn(7, 4), torch.randn(7)
    found = token_entropies(hidden_NH, Head(weight_VH, bias_V), 0.5, chunk)
    logits = (hidden_NH @ weight_VH.T + bias_V).double() / 0.5
    expected = [-sum(float(p) * float(p.log()) for p in row.softmax(0)) for row in logits]
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=1e-5)
    assert token_entropies(hidden_NH[:0], Head(weight_VH, bias_V), 0.5, chunk).shape == (0,)

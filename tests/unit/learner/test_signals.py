"""Signals of a step: entropies of the very distributions, repetition and copying counted by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from learner.signals import copied_share, repeated_share, sampled_entropies, signal_metrics
from tests.fakes.rollout_rows import rollout
from unisd_rl.objective.kernels.head import Head
from unisd_rl.types import TokenView, ViewKind


def tokens(*ids):
    return np.array(ids, np.int32)


def test_an_entropy_is_that_of_the_softmax_at_the_temperature():
    torch.manual_seed(5)
    hidden_NH, head = torch.randn(7, 5), Head(torch.randn(11, 5), torch.randn(11))
    probability_NV = ((hidden_NH.double() @ head.weight_VH.double().T + head.bias_V) / 0.7).softmax(-1)
    expected_N = -(probability_NV * probability_NV.log()).sum(-1)
    assert torch.allclose(sampled_entropies(hidden_NH, head, 0.7).double(), expected_N, atol=1e-5)


def test_a_certain_distribution_has_no_entropy_and_a_uniform_one_the_logarithm_of_its_size():
    certain = Head(torch.tensor([[1000.0], [-1000.0], [0.0]]))
    assert sampled_entropies(torch.ones(1, 1), certain, 1.0).tolist() == [0.0]
    assert sampled_entropies(torch.zeros(1, 1), certain, 1.0).tolist() == pytest.approx([math.log(3)])


def test_at_most_32_tokens_of_a_pass_are_looked_at_spread_over_it():
    hidden_NH = torch.arange(100.0)[:, None]
    found = sampled_entropies(hidden_NH, Head(torch.tensor([[0.1], [0.0]])), 1.0)
    assert len(found) == 25  # every fourth
    assert len(sampled_entropies(hidden_NH[:0], Head(torch.ones(2, 1)), 1.0)) == 0
    assert found[0] == pytest.approx(math.log(2))
    assert found[-1] < 0.01


def test_runs_of_four_tokens_that_stand_earlier_are_repeated():
    assert repeated_share(tokens(1, 2, 3, 4, 5)) == 0.0
    assert repeated_share(tokens(1, 2, 3, 4, 1, 2, 3, 4)) == pytest.approx(0.2)  # of 1234 2341 3412 4123 1234
    assert repeated_share(tokens(7, 7, 7, 7, 7, 7)) == pytest.approx(2 / 3)
    assert math.isnan(repeated_share(tokens(1, 2, 3)))


def test_runs_that_only_the_teacher_read_are_copied():
    answer, prompt = tokens(1, 2, 3, 4, 5), tokens(9, 1, 2, 3, 4)
    assert copied_share(answer, tokens(9, 1, 2, 3, 4, 5), prompt) == 0.5  # 2345; 1234 stands in the prompt
    assert copied_share(answer, prompt, prompt) == 0.0
    assert copied_share(answer, tokens(2, 3, 4, 5, 1, 2, 3, 4), tokens()) == 1.0
    # Numbers that differ in a byte only are others.
    assert copied_share(tokens(256, 1, 1, 1), tokens(1, 1, 1, 1, 256), tokens()) == 0.0


def test_a_step_has_the_means_of_what_there_is(one_rank):
    view = (TokenView(ViewKind.PRIMARY, tokens(5, 1, 2, 3, 4)),)
    rows = [
        replace(rollout(number, (0,) * len(answer)), prompt_tokens=tokens(5), completion_tokens=answer, views=views)
        for number, (answer, views) in enumerate(
            [(tokens(1, 2, 3, 4), view), (tokens(6, 6, 6, 6, 6, 6), view), (tokens(1, 2), ())]
        )
    ]
    entropies = [torch.tensor([1.0, 2.0]), torch.tensor([3.0])]
    found = signal_metrics(rows, entropies, [], torch.device("cpu"))
    assert found.policy_entropy == 2.0
    assert math.isnan(found.teacher_entropy)
    assert found.completion_tokens_mean == 4.0
    assert found.repeated_share == pytest.approx(1 / 3)  # 0 and 2/3; the last has no run of four
    assert found.copied_share == 0.5

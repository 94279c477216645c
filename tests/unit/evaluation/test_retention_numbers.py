"""Pooled and per-example numbers, worked out by hand."""

import math

import pytest

from unisd_rl.evaluation.retention import Drift, Likelihood, Retention

LONG = Likelihood("a", 0, tokens=3, logprob=-3 * math.log(2))  # perplexity 2
SHORT = Likelihood("b", 0, tokens=1, logprob=-math.log(32))  # perplexity 32


def test_pooled_perplexity_counts_tokens_and_per_example_perplexity_counts_completions():
    found = Retention(gold=(LONG, SHORT), answers=())
    assert found.ppl_fit == pytest.approx(4.0)  # exp((3 ln 2 + 5 ln 2) / 4)
    assert found.ppl_fit_per_example == pytest.approx(17.0)


def test_retention_perplexity_and_divergence_are_of_the_answers():
    found = Retention(gold=(), answers=(Drift(LONG, divergence=0.3), Drift(SHORT, divergence=0.5)))
    assert found.ppl_ret == pytest.approx(4.0)
    assert found.ppl_ret_per_example == pytest.approx(17.0)
    assert found.jsd == pytest.approx(0.8 / 4)
    assert found.jsd_per_example == pytest.approx((0.1 + 0.5) / 2)


def test_numbers_over_nothing_do_not_exist():
    found = Retention((), ())
    assert all(math.isnan(value) for key, value in found.to_json().items() if not key.endswith("tokens"))


def test_an_impossible_completion_has_an_infinite_perplexity_and_no_error():
    assert Likelihood("a", 0, 1, -1e6).perplexity == math.inf

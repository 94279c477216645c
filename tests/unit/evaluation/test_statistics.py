"""Intervals and tests against scipy, against sums over all cases, and against numbers worked out by hand."""

import math
from itertools import combinations

import pytest
from scipy.stats import binomtest, bootstrap

from unisd_rl.evaluation.statistics import compare, mcnemar_p, mean_interval, pass_at_k, wilson_interval


@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (7, 7), (1, 2), (188, 257), (421, 512)])
def test_the_wilson_interval_is_scipys(successes, trials):
    found = wilson_interval(successes, trials)
    expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_wilson_interval_of_all_right_ends_at_one_and_starts_where_the_formula_says():
    found = wilson_interval(10, 10)
    z = 1.959963984540054
    assert found.high == 1.0
    assert found.low == pytest.approx(10 / (10 + z * z))


@pytest.mark.parametrize(("samples", "correct", "k"), [(5, 2, 3), (6, 0, 2), (6, 6, 1), (6, 5, 2), (4, 1, 4)])
def test_pass_at_k_is_the_share_of_all_draws_that_hold_a_right_answer(samples, correct, k):
    draws = list(combinations([index < correct for index in range(samples)], k))
    assert pass_at_k(samples, correct, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_1_is_the_share_of_right_answers():
    assert pass_at_k(200, 37, 1) == pytest.approx(37 / 200)


def test_more_tries_than_answers_are_refused():
    with pytest.raises(ValueError, match=r"pass@3 needs at least 3"):
        pass_at_k(2, 1, 3)


def test_the_bootstrap_is_scipys():
    scores = [0.0] * 40 + [0.5] * 10 + [1.0] * 50
    found = mean_interval(scores)
    expected = bootstrap(
        (scores,), lambda sample, axis: sample.mean(axis=axis), method="percentile", rng=1, vectorized=True
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.01)


def test_the_bootstrap_is_a_function_of_its_seed():
    assert mean_interval([0.0, 1.0, 1.0], seed=3) == mean_interval([0.0, 1.0, 1.0], seed=3)


def test_mcnemar_is_the_binomial_tail_of_the_discordant_pairs():
    tail = sum(math.comb(10, count) for count in (0, 1, 2)) / 2**10
    assert mcnemar_p(2, 8) == pytest.approx(2 * tail)
    assert mcnemar_p(0, 0) == 1.0


def test_a_comparison_counts_what_only_one_got_right():
    first, second = [1, 1, 0, 0, 0, 0], [1, 0, 1, 1, 1, 0]
    found = compare(first, second)
    assert (found.problems, found.only_first, found.only_second) == (6, 1, 3)
    assert found.difference == pytest.approx(2 / 6)
    assert found.mcnemar_p == pytest.approx(2 * (1 + 4) / 2**4)
    assert found.interval.low < found.difference < found.interval.high


def test_equal_models_differ_by_nothing():
    found = compare([1, 0, 1], [1, 0, 1])
    assert (found.difference, found.interval.low, found.interval.high, found.mcnemar_p) == (0.0, 0.0, 0.0, 1.0)


def test_several_answers_a_problem_leave_no_yes_or_no_to_test():
    found = compare([0.5, 1.0], [1.0, 1.0])
    assert found.mcnemar_p is None
    assert found.difference == pytest.approx(0.25)

"""What rows say: means and intervals against written arithmetic and a literal bootstrap."""

import numpy as np
import pytest

from tests.fakes.results_rows import result
from tests.unit.ablation.test_grid import grid
from unisd_rl.ablation.analysis import crossed_interval, difference, numbers_of
from unisd_rl.errors import UserError


def literal_interval(score_SP, draws=1500):
    """Seeds drawn, problems drawn, their mean; 95 % of the draws lie within."""
    draw, means = np.random.default_rng(7), []
    for _ in range(draws):
        seeds = [draw.integers(len(score_SP)) for _ in score_SP]
        problems = [draw.integers(score_SP.shape[1]) for _ in range(score_SP.shape[1])]
        means.append(np.mean([[score_SP[seed, problem] for problem in problems] for seed in seeds]))
    return np.quantile(means, [0.025, 0.975])


def test_an_interval_draws_seeds_and_problems_both():
    score_SP = np.random.default_rng(3).random((3, 12)) + np.array([[0.0], [0.5], [1.0]])
    found = crossed_interval(score_SP)
    low, high = literal_interval(score_SP)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.04)
    of_problems_alone = np.quantile(score_SP.mean(axis=0), [0.025, 0.975])
    assert high - low > 1.2 * (of_problems_alone[1] - of_problems_alone[0]) / 2


def test_a_difference_is_of_the_seeds_and_problems_of_both():
    first = [result("sdft", seed, (0.0, 0.0, 1.0, 0.0)) for seed in (0, 1)]
    second = [result("star", seed, (1.0, 0.0, 1.0, 0.0)) for seed in (1, 2)]
    found = difference("sdft", first, second)
    assert (found.other, found.seeds, found.mean) == ("sdft", 1, 0.25)
    assert difference("sdft", first[:1], second) is None
    at_the_end = [result("ssd", 1, steps=[20], accuracies=[0.5])]
    assert difference("ssd", at_the_end, second) is None, "a mean over steps is not a number at the last one"


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [((1.0,) * 4, "better"), ((0.0,) * 4, "cannot be told"), ((1.0, 0.0, 0.0, 0.0), "cannot be told")],
)
def test_a_verdict_needs_an_interval_without_zero(scores, verdict):
    first, second = ([result(row, seed, each) for seed in (0, 1)] for row, each in (("a", (0.0,) * 4), ("b", scores)))
    assert difference("a", first, second).verdict == verdict
    if verdict == "better":
        assert difference("b", second, first).verdict == "worse"
        assert difference("a", first[:1], second[:1]).verdict == "cannot be told", "one seed"


def test_rows_stand_in_the_grids_order_behind_the_initial_models_and_are_compared_as_it_says():
    results = [result("less", 0), result("star", 0, (1.0,) * 4), result("star", 1, (1.0,) * 4), result("sdft", 0)]
    rows = numbers_of(grid(), results)
    assert [row.row for row in rows] == ["raw", "sdft", "star", "less"]
    raw, sdft, star, less = rows
    assert (raw.accuracies, raw.difference, raw.jsd) == ([0.25, 0.25], None, None)
    assert sdft.difference is None
    assert (star.mean, star.seeds, star.difference.other, star.difference.mean) == (1.0, [0, 1], "sdft", 0.5)
    assert (less.difference.other, less.difference.mean) == ("star", -0.5)
    assert (less.jsd, less.out_of_domain, less.seconds) == (0.125, 0.5, 60.0)


def test_each_share_of_wrong_demonstrations_is_a_table_of_its_own():
    rows = numbers_of(grid(), [result("sdft", 0), result("sdft", 0, (0.0,) * 4, wrong=0.3)])
    assert [(row.row, row.wrong_demonstrations, row.mean) for row in rows] == [
        ("raw", 0.0, 0.25), ("sdft", 0.0, 0.5), ("raw", 0.3, 0.25), ("sdft", 0.3, 0.0),
    ]  # fmt: skip


def test_a_number_that_not_every_run_has_is_not_averaged():
    (_, row) = numbers_of(grid(), [result("sdft", 0), result("sdft", 1, jsd=None)])
    assert row.jsd is None
    assert row.ppl_ret == 1.25


def test_runs_on_different_problems_are_not_compared():
    with pytest.raises(UserError, match="evaluated on different problems"):
        numbers_of(grid(), [result("sdft", 0), result("star", 0, problems=["a", "b", "c", "e"])])

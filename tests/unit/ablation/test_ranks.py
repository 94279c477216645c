"""Whether rows that train on stored rollouts are in the order of the same rows on-policy."""

import pytest

from tests.fakes.results_rows import result
from tests.unit.ablation.test_grid import grid
from unisd_rl.ablation.ranks import RankedRow, rank_agreements

ROWS = {
    **{row: {"recipe": "sdft"} for row in ("sdft", "gkd", "opsd", "recording")},
    **{
        f"stored_{row}": {"recipe": "sdft", "replays": "recording", "on_policy": row} for row in ("sdft", "gkd", "opsd")
    },
}
GRID = grid(rows=ROWS, wrong_demonstrations=[0.0])
LOW, MIDDLE, HIGH = (1.0, 0.0, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0), (1.0, 1.0, 1.0, 0.0)


def results(stored, on_policy, seeds=(0, 1)):
    names = ("sdft", "gkd", "opsd")
    scores = [*zip((f"stored_{row}" for row in names), stored, strict=True), *zip(names, on_policy, strict=True)]
    return [result(row, seed, score) for row, score in scores for seed in seeds]


@pytest.mark.parametrize(
    ("stored", "on_policy", "correlation"),
    [
        ((LOW, MIDDLE, HIGH), (LOW, MIDDLE, HIGH), 1.0),
        ((LOW, MIDDLE, HIGH), (HIGH, MIDDLE, LOW), -1.0),
        ((LOW, MIDDLE, HIGH), (MIDDLE, LOW, HIGH), 0.5),
        ((LOW, LOW, LOW), (MIDDLE, LOW, HIGH), 0.0),
    ],
)
def test_the_correlation_is_of_the_ranks_of_rows_and_of_their_twins(stored, on_policy, correlation):
    (agreement,) = rank_agreements(GRID, results(stored, on_policy))
    assert agreement.correlation == pytest.approx(correlation)
    assert agreement.interval.low <= correlation <= agreement.interval.high
    assert agreement.seeds == 2
    assert agreement.rows[0] == RankedRow("stored_sdft", sum(stored[0]) / 4, "sdft", sum(on_policy[0]) / 4)


def test_rows_that_no_draw_of_problems_brings_into_another_order_have_an_interval_of_one_point():
    far = ((0.0,) * 4, (0.5,) * 4, (1.0,) * 4)
    (agreement,) = rank_agreements(GRID, results(far, far))
    assert (agreement.interval.low, agreement.interval.high) == pytest.approx((1.0, 1.0))


def test_one_seed_has_no_interval_and_only_seeds_of_all_rows_count():
    (agreement,) = rank_agreements(GRID, results((LOW, MIDDLE, HIGH), (LOW, MIDDLE, HIGH), seeds=(3,)))
    assert (agreement.seeds, agreement.interval) == (1, None)
    more = [*results((LOW, MIDDLE, HIGH), (LOW, MIDDLE, HIGH)), result("sdft", 7, HIGH)]
    assert [each.seeds for each in rank_agreements(GRID, more)] == [2]


def test_two_rows_or_rows_without_a_seed_in_common_say_nothing():
    made = results((LOW, MIDDLE, HIGH), (LOW, MIDDLE, HIGH))
    assert rank_agreements(GRID, [each for each in made if not each.row.endswith("opsd")]) == []
    assert (
        rank_agreements(GRID, [each for each in made if (each.row, each.seed) not in (("sdft", 0), ("gkd", 1))]) == []
    )

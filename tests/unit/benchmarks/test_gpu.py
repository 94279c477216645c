"""The table of `benchmarks.gpu`."""

from benchmarks.gpu import Outcome, parts_for, table_of


def test_the_parts_take_at_most_seven_minutes():
    assert sum(part.limit_s for part in parts_for("cuda", tiny=False)) <= 420


def test_the_share_of_the_matrix_rate_is_four_products_with_the_head_over_the_time():
    size = {"tokens": 10, "hidden": 20, "vocabulary": 50}
    rows = [
        {"measure": "time", "contender": "product", "divergence": "", "seconds": 0.5},
        {"measure": "time", "contender": "ours", "divergence": "jsd", "seconds": 4.0},
        {"measure": "memory", "contender": "ours", "divergence": "jsd", "seconds": 9.0, "peak_mib": 7.0},
    ]
    product, ours = table_of("objective", Outcome("", 30.0, size, rows), rate=40_000.0)[1:]
    assert product["share_of_matrix_rate"] == 2 * 10 * 20 * 50 / 0.5 / 40_000
    assert ours["share_of_matrix_rate"] == 4 * 2 * 10 * 20 * 50 / 4.0 / 40_000
    assert (ours["tokens_per_s"], ours["peak_mib"]) == (2.5, 7.0)


def test_a_part_that_was_cut_off_has_its_row_and_says_so():
    assert table_of("layouts", Outcome("not done after 90 s", 90.0, {}, []), 1.0) == [
        {"part": "layouts", "seconds": 90.0, "note": "not done after 90 s"}
    ]

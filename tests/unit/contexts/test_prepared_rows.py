"""Rows that are read where they are asked for are those of a list."""

import pytest

from unisd_rl.contexts.prepared_rows import Picked, StoredRows

LINES = [['{"n": 0, "t": "é"}', '{"n": 1, "t": ""}'], ['{"n": 2, "t": "\\ud800"}'], ['{"n": 3, "t": "x"}'] * 3]


@pytest.fixture
def stored(tmp_path):
    files = []
    for number, lines in enumerate(LINES):
        files.append(tmp_path / f"{number}.jsonl")
        files[-1].write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return StoredRows(files, lambda row: row["n"])


def test_each_line_is_an_item_of_the_sequence_in_any_order(stored):
    assert len(stored) == 6
    assert list(stored) == [stored[index] for index in range(6)] == [0, 1, 2, 3, 3, 3]
    assert [stored[index] for index in (5, 0, 2)] == [3, 0, 2]
    assert stored[1:4] == [1, 2, 3]
    with pytest.raises(IndexError):
        stored[6]


def test_picked_items_are_some_in_their_order(stored):
    picked = Picked(stored, [4, 0, 1], lambda number: number * 10)
    assert (list(picked), len(picked), picked[2], picked[1:]) == ([30, 0, 10], 3, 10, [0, 10])

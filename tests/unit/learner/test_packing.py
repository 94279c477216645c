"""Every sequence in exactly one pass, budgets kept, few passes, one order."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.batch import PackingConfig, best_fit, padded

LENGTHS = st.lists(st.integers(1, 60), max_size=40)
BUDGETS = st.integers(1, 200)
WAYS = pytest.mark.parametrize("group", [best_fit, padded])


def fewest(lengths, budget):
    """The smallest number of groups that hold these lengths, by trying every placement."""
    best = len(lengths)

    def place(index, rooms):
        nonlocal best
        if len(rooms) >= best:
            return
        if index == len(lengths):
            best = len(rooms)
            return
        for at, room in enumerate(rooms):
            if room >= lengths[index]:
                place(index + 1, [*rooms[:at], room - lengths[index], *rooms[at + 1 :]])
        place(index + 1, [*rooms, budget - lengths[index]])

    place(0, [])
    return best


@WAYS
@given(lengths=LENGTHS, budget=BUDGETS)
def test_every_reading_is_in_exactly_one_pass(group, lengths, budget):
    groups = group(lengths, budget)
    assert sorted(index for one in groups for index in one) == list(range(len(lengths)))
    assert all(groups)


@given(lengths=LENGTHS, budget=BUDGETS)
def test_a_packed_pass_keeps_the_budget_or_is_one_long_reading(lengths, budget):
    for one in best_fit(lengths, budget):
        assert sum(lengths[index] for index in one) <= budget or len(one) == 1


@given(lengths=LENGTHS, budget=BUDGETS)
def test_a_padded_pass_keeps_the_budget_with_its_padding_or_is_one_long_reading(lengths, budget):
    for one in padded(lengths, budget):
        assert len(one) * max(lengths[index] for index in one) <= budget or len(one) == 1


@WAYS
@given(lengths=LENGTHS, budget=BUDGETS)
def test_no_fewer_passes_than_the_tokens_fill(group, lengths, budget):
    held = sum(min(length, budget) for length in lengths)
    assert len(group(lengths, budget)) >= math.ceil(held / budget)


@given(lengths=LENGTHS, budget=BUDGETS)
def test_no_two_packed_passes_could_be_one(lengths, budget):
    sums = sorted(sum(lengths[index] for index in one) for one in best_fit(lengths, budget))
    assert all(one + other > budget for one, other in pairwise(sums))


@given(lengths=st.lists(st.integers(1, 10), max_size=8), budget=st.integers(10, 20))
def test_packed_passes_are_within_the_bound_of_best_fit_decreasing(lengths, budget):
    assert len(best_fit(lengths, budget)) <= 11 / 9 * fewest(lengths, budget) + 6 / 9


@WAYS
@given(lengths=LENGTHS, budget=BUDGETS)
def test_equal_lengths_give_equal_passes(group, lengths, budget):
    assert group(list(lengths), budget) == group(tuple(lengths), budget)


@WAYS
def test_a_budget_of_everything_is_one_pass_and_ties_go_to_the_lower_index(group):
    assert group([2, 3, 3, 2], 12) == [[1, 2, 0, 3]]


@WAYS
def test_a_reading_longer_than_the_budget_goes_alone(group):
    assert group([1, 9, 2], 4) == [[1], [2, 0]]


@WAYS
def test_no_readings_need_no_pass(group):
    assert group([], 4) == []


def test_room_that_padding_wastes_is_used_in_a_packed_row():
    sequences = [np.full(length, place, np.int32) for place, length in enumerate((6, 4, 5, 5))]
    assert PackingConfig("packed", 10, 20).groups(sequences, 10) == ([[0, 1], [2, 3]], "packed")
    assert PackingConfig("padded", 10, 20).groups(sequences, 10) == ([[0], [2, 3], [1]], "padded")
    assert PackingConfig("packed", 10, 20).groups(sequences, 20) == ([[0, 2, 3, 1]], "packed")


def answers(prompt, *lengths, shared=20):
    """Sequences of these lengths that have `shared` tokens in common."""
    return [
        np.array([*range(shared), *[100 + 10 * prompt + place] * (length - shared)], np.int32)
        for place, length in enumerate(lengths)
    ]


def test_sequences_that_share_are_read_together_and_what_they_share_counts_once():
    sequences = answers(0, 24, 25, 26, 27)
    tree = PackingConfig("tree", 10, 20)
    assert tree.groups(sequences, 42) == ([[3, 2, 1, 0]], "tree")
    assert tree.groups(sequences, 41) == ([[3], [2, 1, 0]], "tree")
    assert tree.groups(sequences, 33) == ([[3, 2], [1, 0]], "tree")


@pytest.mark.parametrize("length, layout", [(200, "tree"), (201, "packed")])
def test_where_a_tree_saves_less_than_a_tenth_the_sequences_are_packed(length, layout):
    sequences = answers(0, 100, length - 100)  # 20 of these tokens are saved
    assert PackingConfig("tree", 10, 20).groups(sequences, 1000)[1] == layout
    expected = best_fit([100, length - 100], 1000)
    assert layout == "tree" or PackingConfig("tree", 10, 20).groups(sequences, 1000)[0] == expected


def test_what_a_tree_saves_is_counted_after_it_was_cut():
    sequences = answers(0, 24, 24)
    assert PackingConfig("tree", 10, 20).groups(sequences, 28) == ([[0, 1][::-1]], "tree")
    assert PackingConfig("tree", 10, 20).groups(sequences, 27) == ([[0], [1]], "packed")

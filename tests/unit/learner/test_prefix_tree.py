"""What sequences begin with stands once, in an order in which one comparison tells who sees whom."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.prefix_tree import LEAST_SHARED, PrefixTree

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), max_size=8)


def arrays(sequences):
    return [np.array(sequence, np.int32) for sequence in sequences]


def tree_of(sequences, least_shared=1):
    return PrefixTree.of(arrays(sequences), least_shared)


def prefixes(sequences):
    """The nodes of the trie: every prefix of every sequence."""
    return {tuple(sequence[: length + 1]) for sequence in sequences for length in range(len(sequence))}


@given(SEQUENCES)
def test_the_row_holds_each_prefix_once_and_each_sequence_along_its_path(sequences):
    tree, row = tree_of(sequences), tree_of(sequences).row()
    assert tree.tokens == len(row.depth_T) == len(prefixes(sequences))
    places = {}
    for sequence, path in zip(sequences, row.paths, strict=True):
        assert row.depth_T[path].tolist() == list(range(len(sequence)))
        for length, position in enumerate(path.tolist()):
            assert places.setdefault(position, tuple(sequence[: length + 1])) == tuple(sequence[: length + 1])
    assert len(places) == tree.tokens == sum(row.added)


@given(SEQUENCES, st.integers(1, 4))
def test_a_token_sees_exactly_its_own_path_up_to_itself(sequences, least_shared):
    row = tree_of(sequences, least_shared).row()
    every = np.arange(len(row.depth_T))
    for path in row.paths:
        for depth, position in enumerate(path):
            sees = every[(every <= position) & (position < row.subtree_end_T)]
            assert sees.tolist() == path[: depth + 1].tolist()


@given(SEQUENCES, st.integers(1, 4))
def test_a_prefix_and_its_segment_are_a_path(sequences, least_shared):
    row = tree_of(sequences, least_shared).row()
    covered = [position for segment in row.segments for position in range(*segment)]
    assert covered == list(range(len(row.depth_T)))
    for (start, stop), prefix in zip(row.segments, row.prefixes, strict=True):
        seen = [position for span in prefix for position in range(*span)] + list(range(start, stop))
        assert any(seen == path[: len(seen)].tolist() for path in row.paths)


@given(SEQUENCES, st.integers(2, 4))
def test_shorter_prefixes_are_read_twice(sequences, least_shared):
    tree = tree_of(sequences, least_shared)
    assert all(shared == 0 or shared >= least_shared for shared in tree.shared)
    for before, after, shared in zip(tree.order, tree.order[1:], tree.shared[1:], strict=False):
        pairs = zip(sequences[before], sequences[after], strict=False)
        common = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
        common = min(len(sequences[before]), len(sequences[after])) if common is None else common
        assert shared == (common if common >= least_shared else 0)


def row_tokens(sequences, group):
    return len(prefixes([sequences[index] for index in group]))


def ways(order):
    """Every way to cut an order into groups of neighbours."""
    places = range(1, len(order))
    for count in range(len(order)):
        for cuts in combinations(places, count):
            bounds = [0, *cuts, len(order)]
            yield [order[start:stop] for start, stop in pairwise(bounds)]


@given(SEQUENCES.filter(bool), st.integers(1, 20))
def test_groups_keep_the_budget_and_are_the_fewest_with_the_fewest_tokens(sequences, budget):
    tree = tree_of(sequences)
    parts = tree.cut(budget)
    groups = [list(part.order) for part in parts]
    assert [index for group in groups for index in group] == list(tree.order)
    assert [part.tokens for part in parts] == [row_tokens(sequences, group) for group in groups]

    def cost(way):
        return len(way), sum(row_tokens(sequences, group) for group in way)

    def allowed(way):
        return all(len(group) == 1 or row_tokens(sequences, group) <= budget for group in way)

    assert allowed(groups)
    assert cost(groups) == min(cost(way) for way in ways(list(tree.order)) if allowed(way))


def test_the_drawing():
    row = tree_of([[1, 2], [9, 8, 3], [9, 8, 7, 5, 4], [9, 8, 7, 6]]).row()
    assert row.segments == ((0, 4), (4, 6), (6, 7), (7, 9))
    assert row.prefixes == ((), ((0, 3),), ((0, 2),), ())
    assert row.depth_T.tolist() == [0, 1, 2, 3, 3, 4, 2, 0, 1]
    assert row.subtree_end_T.tolist() == [7, 7, 6, 4, 6, 6, 7, 9, 9]
    assert row.paths[2].tolist() == [0, 1, 2, 4, 5]


def test_a_prefix_may_lie_in_several_segments():
    row = tree_of([[5, 9], [5, 8, 7], [5, 8, 6]]).row()
    assert row.segments == ((0, 2), (2, 4), (4, 5))
    assert row.prefixes == ((), ((0, 1),), ((0, 1), (2, 3)))


def test_equal_sequences_have_one_path_and_one_that_ends_on_anothers_adds_nothing():
    row = tree_of([[4, 5], [4, 5, 6], [4, 5]]).row()
    assert row.segments == ((0, 3),)
    assert [path.tolist() for path in row.paths] == [[0, 1], [0, 1, 2], [0, 1]]


@pytest.mark.parametrize("length, tokens", [(LEAST_SHARED, LEAST_SHARED + 2), (LEAST_SHARED - 1, 2 * LEAST_SHARED)])
def test_a_prefix_is_shared_from_a_certain_length_on(length, tokens):
    assert PrefixTree.of(arrays([[*range(length), 90], [*range(length), 91]])).tokens == tokens


def test_token_ids_of_several_bytes_keep_their_order():
    tree = tree_of([[255], [256], [2**24 + 1], [65536]])
    assert tree.order == (2, 3, 1, 0)


def test_sequences_end_to_end_share_nothing():
    row = PrefixTree.unshared([2, 1, 3]).row()
    assert row.segments == ((0, 2), (2, 3), (3, 6))
    assert row.prefixes == ((), (), ())
    assert row.depth_T.tolist() == [0, 1, 0, 0, 1, 2]
    assert row.subtree_end_T.tolist() == [2, 2, 3, 6, 6, 6]


def test_nothing_is_a_tree_without_tokens():
    tree = PrefixTree.of([])
    assert tree.tokens == 0
    assert tree.cut(10) == []
    assert tree.row().paths == ()

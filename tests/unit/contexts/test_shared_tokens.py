"""What the benchmark of contexts counts: every token of a prefix that sequences share once."""

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.contexts import tree_tokens

sequences = st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=8)


@given(sequences)
def test_a_tree_has_a_token_for_every_distinct_prefix(sequences):
    prefixes = {tuple(sequence[:end]) for sequence in sequences for end in range(1, len(sequence) + 1)}
    assert tree_tokens(sequences) == len(prefixes)

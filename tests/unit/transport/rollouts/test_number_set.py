"""A set kept as ranges is a set: the same numbers whatever is done to it, in as few ranges as there are gaps."""

from hypothesis import given
from hypothesis import strategies as st

from unisd_rl.transport.rollouts.number_set import NumberSet

NUMBERS = st.lists(st.integers(0, 40))
RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 45)))


def same(found: NumberSet, expected: set[int]) -> bool:
    gaps = sum(number - 1 not in expected for number in expected)
    inside = [number in found for number in range(-1, 47)] == [number in expected for number in range(-1, 47)]
    return (
        found.end == max(expected, default=-1) + 1
        and list(found) == sorted(expected)
        and len(found) == len(expected)
        and inside
        and len(found.ranges) == gaps
    )


@given(NUMBERS, RANGES)
def test_numbers_and_ranges_put_in_make_the_set_of_them(numbers, ranges):
    found, expected = NumberSet(numbers), set(numbers)
    assert same(found, expected)
    for start, stop in ranges:
        found.add_range(start, stop)
        expected.update(range(start, stop))
        assert same(found, expected)
    assert NumberSet.from_ranges(found.ranges) == found == NumberSet(expected)


@given(NUMBERS, NUMBERS, st.integers(0, 45))
def test_union_difference_and_what_lies_below_are_those_of_sets(left, right, end):
    one, other = NumberSet(left), NumberSet(right)
    assert same(one - other, set(left) - set(right))
    assert same(one.below(end), {number for number in left if number < end})
    one.update(other)
    assert same(one, {*left, *right})
    assert same(other, set(right))


def test_a_million_numbers_that_come_nearly_in_order_are_a_few_ranges():
    found = NumberSet()
    for block in range(0, 1_000_000, 1000):
        found.add_range(block + 1, block + 1000)
        assert len(found.ranges) <= 2
        found.add(block)
    assert found.ranges == ((0, 1_000_000),)

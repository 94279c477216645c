"""Sets of prompt numbers that are nearly contiguous, kept as ranges: what is settled, admitted, consumed so far.

    {0, 1, ..., 99, 101, 102}    starts [0, 101]    stops [100, 103]

Numbers are settled nearly in order, so a set has as many ranges as there are prompts in flight or given up, however
long the run. Memory is that of the ranges, and so is the time of set algebra; a lookup takes the logarithm of it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from typing_extensions import override


class NumberSet:
    """A mutable set of integers; iteration and `ranges` are in rising order."""

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._count = 0
        for number in numbers:
            self.add(number)

    @classmethod
    def from_ranges(cls, ranges: Iterable[tuple[int, int]]) -> "NumberSet":
        """The numbers of all ranges `(start, stop)`, without their stops."""
        made = cls()
        for start, stop in ranges:
            made.add_range(start, stop)
        return made

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._starts, number) - 1
        return place >= 0 and number < self._stops[place]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        for start, stop in self.ranges:
            yield from range(start, stop)

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, NumberSet) and self.ranges == other.ranges

    __hash__ = None  # type: ignore[assignment]  # it changes

    @override
    def __repr__(self) -> str:
        return f"NumberSet({list(self.ranges)})"

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Maximal ranges `(start, stop)`, lowest first."""
        return tuple(zip(self._starts, self._stops, strict=True))

    @property
    def end(self) -> int:
        """One more than the highest number; 0 of none."""
        return self._stops[-1] if self._stops else 0

    def add(self, number: int) -> None:
        """Put one number in."""
        if self._stops and number == self._stops[-1]:  # in order, as most come
            self._stops[-1] += 1
            self._count += 1
        else:
            self.add_range(number, number + 1)

    def add_range(self, start: int, stop: int) -> None:
        """Put `start` to `stop` - 1 in."""
        if start >= stop:
            return
        first, last = bisect_left(self._stops, start), bisect_right(self._starts, stop)  # those that touch it
        if first < last:
            start, stop = min(start, self._starts[first]), max(stop, self._stops[last - 1])
        replaced = sum(self._stops[place] - self._starts[place] for place in range(first, last))
        self._starts[first:last], self._stops[first:last] = [start], [stop]
        self._count += stop - start - replaced

    def update(self, other: "NumberSet") -> None:
        """Put in what is in `other`."""
        for start, stop in other.ranges:
            self.add_range(start, stop)

    def below(self, end: int) -> "NumberSet":
        """The numbers lower than `end`."""
        return NumberSet.from_ranges((start, min(stop, end)) for start, stop in self.ranges if start < end)

    def __sub__(self, other: "NumberSet") -> "NumberSet":
        """The numbers that are not in `other`."""
        left = NumberSet()
        for start, stop in self.ranges:
            for hole_start, hole_stop in other._ranges_within(start, stop):
                left.add_range(start, hole_start)
                start = hole_stop
            left.add_range(start, stop)
        return left

    def _ranges_within(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Those ranges that have a number of `start` to `stop` - 1, lowest first."""
        first, last = bisect_right(self._stops, start), bisect_left(self._starts, stop)
        return zip(self._starts[first:last], self._stops[first:last], strict=True)

"""Which readings share a forward pass: as few passes as fit a budget of tokens.

```
 packed   one row, sequences end to end: a pass computes the tokens it reads, nothing else
 padded   one row a sequence, as long as the longest: neighbours in length pad each other little
```

Every function here is pure and deterministic: equal lengths give equal groups, ties go to the lower index.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

Group = list[int]
"""Indices of the readings of one pass."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a rank lays readings into forward passes; changes no result beyond rounding."""

    packed: bool
    """Sequences end to end in one row; False: padded rows."""
    gradient_tokens: int
    """Positions computed at most in a pass with gradient. A single reading may be longer: it gets its own pass."""
    scoring_tokens: int
    """The same for a pass without gradient."""

    def gradient_groups(self, lengths: Sequence[int]) -> list[Group]:
        """Passes with gradient over readings of these lengths."""
        return self._groups(lengths, self.gradient_tokens)

    def scoring_groups(self, lengths: Sequence[int]) -> list[Group]:
        """Passes without gradient over readings of these lengths."""
        return self._groups(lengths, self.scoring_tokens)

    def _groups(self, lengths: Sequence[int], budget: int) -> list[Group]:
        return best_fit(lengths, budget) if self.packed else padded(lengths, budget)


def best_fit(lengths: Sequence[int], budget: int) -> list[Group]:
    """Groups whose lengths sum up to at most `budget`, by best fit on decreasing lengths.

    At most 11/9 of the fewest possible groups, and one more. What is longer than the budget stands alone.
    """
    groups: list[Group] = []
    rooms: list[tuple[int, int]] = []  # what is left in each group that still has room, and which group it is
    for index in _longest_first(lengths):
        length = lengths[index]
        at = bisect_left(rooms, (length, -1))
        room, group = rooms.pop(at) if at < len(rooms) else (budget, len(groups))
        if group == len(groups):
            groups.append([])
        groups[group].append(index)
        if room > length:
            insort(rooms, (room - length, group))
    return groups


def padded(lengths: Sequence[int], budget: int) -> list[Group]:
    """Groups of neighbours in length; count times longest is at most `budget`, or the group is a single reading."""
    groups: list[Group] = []
    for index in _longest_first(lengths):
        if not groups or (len(groups[-1]) + 1) * lengths[groups[-1][0]] > budget:
            groups.append([])
        groups[-1].append(index)
    return groups


def _longest_first(lengths: Sequence[int]) -> Group:
    return sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))

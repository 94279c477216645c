"""The prefix tree of token sequences: what several begin with stands once in the row that a forward pass reads.

```
 sequences, depth first     row, depth first
 9 8 7 6                    9 8 7 6
 9 8 7 5 4                        . 5 4           shares 3 tokens with the one before it
 9 8 3                            . . . 3         shares 2
 1 2                                    1 2       shares none: a new tree
```

Each sequence adds one segment to the row, what it does not share with the one before it; together with what it shares,
its prefix, that is its path. In descending order of their tokens, sequences with a common prefix stand together, and
one that ends on the path of another comes right after it and adds nothing.

Row position q sees row position k, which is k on its own path, exactly if `k <= q < subtree_end[k]`. Everything here is
pure and deterministic: equal sequences give equal trees, and of equal ones the first stands first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from unisd_rl.types import Tokens

LEAST_SHARED = 16
"""Fewer tokens in common are read twice: that costs less than an attention that begins in the middle of a path."""

Span = tuple[int, int]
"""Row positions from the first to before the second."""


@dataclass(frozen=True, slots=True)
class Row:
    """Where a tree's tokens stand in its row of T positions."""

    depth_T: NDArray[np.int64]
    """Position of each token in its sequences."""
    subtree_end_T: NDArray[np.int64]
    """The row position behind the last one that sees this one."""
    segments: tuple[Span, ...]
    """What each sequence adds, in the row's order; those that add nothing are left out."""
    prefixes: tuple[tuple[Span, ...], ...]
    """The rest of each segment's path, in order of depth."""
    paths: tuple[NDArray[np.int64], ...]
    """The row positions of each sequence's tokens, as the sequences were given."""
    added: tuple[int, ...]
    """Tokens that each sequence does not share with the one before it, as the sequences were given."""


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """Sequences in depth-first order."""

    order: tuple[int, ...]
    """Which sequence stands where."""
    lengths: tuple[int, ...]
    """Tokens of each, in this order."""
    shared: tuple[int, ...]
    """Tokens that each has in common with the one before it; 0 where a new tree begins."""

    @staticmethod
    def of(sequences: Sequence[Tokens], least_shared: int = LEAST_SHARED) -> "PrefixTree":
        """The tree of these sequences, in which prefixes of fewer than `least_shared` tokens are not shared."""
        keys = [sequence.astype(">i4").tobytes() for sequence in sequences]  # token ids sort as their bytes do
        order = sorted(range(len(keys)), key=keys.__getitem__, reverse=True)
        shared = [0]
        for before, after in pairwise(order):
            common = _common_prefix(sequences[before], sequences[after])
            shared.append(common if common >= least_shared else 0)
        lengths = tuple(len(sequences[index]) for index in order)
        return PrefixTree(tuple(order), lengths, tuple(shared[: len(order)]))

    @staticmethod
    def unshared(lengths: Sequence[int]) -> "PrefixTree":
        """Sequences of these lengths end to end, which share nothing."""
        return PrefixTree(tuple(range(len(lengths))), tuple(lengths), (0,) * len(lengths))

    @property
    def tokens(self) -> int:
        """Those of the row."""
        return sum(self.lengths) - sum(self.shared)

    def cut(self, budget: int) -> "list[PrefixTree]":
        """This tree in parts of neighbours, which have at most `budget` tokens each or are one sequence.

        As few parts as there can be, and of those ways the one with the fewest tokens: what two parts share stands in
        each of them.
        """
        count, added = len(self.order), np.concatenate([[0], np.cumsum(np.subtract(self.lengths, self.shared))])
        shared = np.array([*self.shared, 0], np.int64)
        cost, begins, first = np.zeros(count + 1, np.int64), [0] * (count + 1), 0
        for end in range(1, count + 1):
            while first < end - 1 and added[end] - added[first] + shared[first] > budget:
                first += 1
            costs = cost[first:end] + shared[first:end]
            begins[end] = first + int(costs.argmin())
            cost[end] = costs.min() + _PART
        parts, end = list[PrefixTree](), count
        while end:
            start = begins[end]
            parts.append(PrefixTree(self.order[start:end], self.lengths[start:end], (0, *self.shared[start + 1 : end])))
            end = start
        return parts[::-1]

    def row(self) -> Row:
        """Where the tokens stand when the whole tree is read in one pass."""
        count, size = len(self.order), self.tokens
        added = np.zeros(count, np.int64)
        added[list(self.order)] = np.subtract(self.lengths, self.shared)
        depth, end = np.empty(size, np.int64), np.full(size, size, np.int64)
        path, before, start = np.empty(max(self.lengths, default=0), np.int64), 0, 0
        paths, segments, prefixes = dict[int, NDArray[np.int64]](), list[Span](), list[tuple[Span, ...]]()
        for index, length, shared in zip(self.order, self.lengths, self.shared, strict=True):
            end[path[shared:before]] = start  # the sequence before leaves the common path here
            stop, before = start + length - shared, length
            path[shared:length] = np.arange(start, stop)
            paths[index] = path[:length].copy()
            depth[start:stop] = np.arange(shared, length)
            if stop > start:
                segments.append((start, stop))
                prefixes.append(_spans(path[:shared]))
            start = stop
        ordered = tuple(paths[index] for index in range(count))
        return Row(depth, end, tuple(segments), tuple(prefixes), ordered, tuple(added.tolist()))


_PART = 1 << 40
"""More than all tokens that another way to cut can save."""


def _common_prefix(one: Tokens, other: Tokens) -> int:
    length = min(len(one), len(other))
    differs = one[:length] != other[:length]
    return int(differs.argmax()) if differs.any() else length


def _spans(positions: NDArray[np.int64]) -> tuple[Span, ...]:
    """Ascending positions as spans without gaps."""
    if not len(positions):
        return ()
    breaks = np.flatnonzero(np.diff(positions) > 1) + 1
    firsts, lasts = positions[[0, *breaks]], positions[[*(breaks - 1), -1]]
    return tuple(zip(firsts.tolist(), (lasts + 1).tolist(), strict=True))

"""From decoded rollouts to inputs: one rank's share of an optimiser step.

```
 rollouts --Share--> completions in one order, N tokens end to end (no padding, no masks from here on)
    |
    +--readings--> (context, completion) pairs of the student or of the views of a plan
         +--layout--> groups that share a forward pass
               +--lay--> inputs of that pass, and where in it each completion token is predicted
```

Inputs are one packed row, in which attention stays within each sequence, or rows that are padded on the right. The
models are causal, so no real position ever sees a padded one and what those compute is never read. The last token of a
completion is predicted, not read.

Shape letters: N completion tokens, B rows and L columns of one pass, S sequences.

Which readings share a forward pass: as few passes as fit a budget of tokens.

```
 packed   one row, sequences end to end: a pass computes the tokens it reads, nothing else
 padded   one row a sequence, as long as the longest: neighbours in length pad each other little
```

Every function here is pure and deterministic: equal lengths give equal groups, ties go to the lower index.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.attention import Packing
from learner.plan import Line
from unisd_rl.types import Rollout, Tokens, ViewKind

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


@dataclass(frozen=True, slots=True)
class Reading:
    """One context in front of one completion."""

    context: Tokens
    row: int
    """Index of the completion in the share."""
    line: int = 0
    """Which line of the results this reading fills; 0 where there is only one."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """One forward pass. An empty pass reads one dummy token and predicts none."""

    ids_BL: Tensor
    """long."""
    packing: Packing | None
    """Where the sequences lie in the one row; None: each row is a sequence, padded."""
    predicts_N: Tensor
    """Flat positions in [B * L] whose hidden states predict the pass's completion tokens."""
    targets_N: Tensor
    """Those tokens."""
    places_N: Tensor
    """Where each of them stands in the results: `line * N + index in the share's order`."""
    read: int
    """Tokens read, padding left out."""

    @property
    def computed(self) -> int:
        """Positions computed, padding included."""
        return self.ids_BL.numel()


class Share:
    """One rank's rollouts of a step, in the order in which the gradient passes take them.

    So each gradient pass predicts consecutive tokens of the N. The order changes no number: every completion carries
    its own tokens, and denominators are global.
    """

    def __init__(self, rollouts: Sequence[Rollout], device: torch.device, layout: Layout) -> None:
        spoken = [rollout for rollout in rollouts if len(rollout.completion_tokens)]
        silent = [rollout for rollout in rollouts if not len(rollout.completion_tokens)]
        groups = layout.gradient_groups([_length(rollout.prompt_tokens, rollout) for rollout in spoken])
        self.rollouts = [*silent, *(spoken[index] for group in groups for index in group)]
        self.device, self._layout = device, layout
        self._sizes = [len(group) for group in groups]
        counts = np.array([len(rollout.completion_tokens) for rollout in self.rollouts], np.int64)
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        self.sequence_N = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(device)

    @property
    def tokens(self) -> int:
        """N."""
        return int(self.starts[-1])

    def order(self) -> Tensor:
        """`order_S` (long): the place of each sequence among this rank's prompts, by their numbers."""
        numbers = torch.tensor([rollout.number for rollout in self.rollouts], dtype=torch.long, device=self.device)
        return numbers.argsort().argsort()

    def students(self) -> list[Reading]:
        """The student's own prompts: consecutive readings predict consecutive tokens."""
        return self._with_tokens(Reading(rollout.prompt_tokens, row) for row, rollout in enumerate(self.rollouts))

    def views(self, lines: Sequence[Line]) -> list[Reading]:
        """Every view that a plan's lines name; a completion without a negative view has no such reading."""
        found = [
            (rollout.views_of(line.kind), row, number, line)
            for number, line in enumerate(lines)
            for row, rollout in enumerate(self.rollouts)
        ]
        for views, row, _, line in found:
            wanted = sum(other.kind is line.kind for other in lines)
            assert len(views) == wanted or (line.kind is ViewKind.NEGATIVE and not views), (
                f"rollout {self.rollouts[row].number} has {len(views)} {line.kind.value} views, not {wanted}"
            )
        return self._with_tokens(
            Reading(views[line.index].tokens, row, number) for views, row, number, line in found if views
        )

    def has_view(self, line: Line) -> Tensor:
        """`has_S` (bool): which completions have this view."""
        has = [len(rollout.views_of(line.kind)) > line.index for rollout in self.rollouts]
        return torch.tensor(has, dtype=torch.bool, device=self.device)

    def gradient_groups(self) -> list[list[Reading]]:
        """The student's readings by gradient pass; in this order they predict the tokens 0 .. N - 1."""
        readings = iter(self.students())
        return [[next(readings) for _ in range(size)] for size in self._sizes]

    def scoring_groups(self, readings: Sequence[Reading]) -> list[list[Reading]]:
        """Readings by pass without gradient; within a pass, lines follow each other."""
        groups = self._layout.scoring_groups([self.length(reading) for reading in readings])
        return [[readings[index] for index in sorted(group)] for group in groups]

    def length(self, reading: Reading) -> int:
        """Tokens that are read: the context, and the completion but for its last token."""
        return _length(reading.context, self.rollouts[reading.row])

    def predicted(self, reading: Reading) -> int:
        """Completion tokens that are predicted."""
        return len(self.rollouts[reading.row].completion_tokens)

    def lay(self, readings: Sequence[Reading]) -> Inputs:
        """One forward pass over `readings`; their completions keep the order of the readings."""
        if not readings:
            none = torch.empty(0, dtype=torch.long, device=self.device)
            dummy = torch.zeros(1, 1, dtype=torch.long, device=self.device)
            return Inputs(dummy, self._packing([1]), none, none, none, 0)
        lengths = [self.length(reading) for reading in readings]
        width = sum(lengths) if self._layout.packed else max(lengths)
        ids_BL = np.zeros((1 if self._layout.packed else len(readings), width), np.int64)
        predicts, targets, places = [], [], []
        starts = np.cumsum([0, *lengths[:-1]]) if self._layout.packed else np.arange(len(readings)) * width
        for reading, start, length in zip(readings, starts, lengths, strict=True):
            completion, context = self.rollouts[reading.row].completion_tokens, reading.context
            assert len(context), f"rollout {self.rollouts[reading.row].number} has an empty context"
            ids_BL.flat[start : start + len(context)] = context
            ids_BL.flat[start + len(context) : start + length] = completion[:-1]
            predicts.append(np.arange(start + len(context) - 1, start + length))
            targets.append(completion)
            places.append(reading.line * self.tokens + np.arange(*self.starts[reading.row : reading.row + 2]))
        predicts_N, targets_N, places_N = (self._tensor(np.concatenate(parts)) for parts in (predicts, targets, places))
        return Inputs(self._tensor(ids_BL), self._packing(lengths), predicts_N, targets_N, places_N, sum(lengths))

    def _packing(self, lengths: Sequence[int]) -> Packing | None:
        return Packing.of(lengths, self.device) if self._layout.packed else None

    def _with_tokens(self, readings: Iterable[Reading]) -> list[Reading]:
        return [reading for reading in readings if len(self.rollouts[reading.row].completion_tokens)]

    def _tensor(self, array: NDArray[np.integer]) -> Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(self.device)


def _length(context: Tokens, rollout: Rollout) -> int:
    return len(context) + len(rollout.completion_tokens) - 1

"""One rank's rollouts of an optimiser step, and the inputs of the forward passes over them.

```
 rollouts --RankBatch--> completions in one order, N tokens end to end (no padding, no masks from here on)
    |
    +--*_sequences--> (context, completion) pairs of the student, or of the views of a plan
         +--*_groups--> groups that share a forward pass
               +--collate--> inputs of that pass, and where in it each completion token is predicted
```

Inputs are one packed row, in which attention stays within each sequence, or rows that are padded on the right. The
models are causal, so no real position ever sees a padded one and what those compute is never read. The last token of a
completion is predicted, not read. Groups are as few as fit a budget of tokens:

```
 packed   one row, sequences end to end: a pass computes the tokens it reads, nothing else
 padded   one row a sequence, as long as the longest: neighbours in length pad each other little
```

Everything here is pure and deterministic: equal lengths give equal groups, ties go to the lower index.

Shape letters: N completion tokens, B rows and L columns of one pass, S sequences.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from learner.attention import Packing
from learner.plan import ViewSpec
from unisd_rl.types import Rollout, Tokens, ViewKind

Group = list[int]
"""Indices of the sequences of one pass."""


@dataclass(frozen=True, slots=True)
class PackingConfig:
    """How a rank packs sequences into forward passes; changes no result beyond rounding."""

    packed: bool
    """Sequences end to end in one row; False: padded rows."""
    gradient_tokens: int
    """Positions computed at most in a pass with gradient. A single sequence may be longer: it gets its own pass."""
    scoring_tokens: int
    """The same for a pass without gradient."""

    def groups(self, lengths: Sequence[int], budget: int) -> list[Group]:
        """Passes over sequences of these lengths, of at most `budget` positions."""
        return best_fit(lengths, budget) if self.packed else padded(lengths, budget)


def best_fit(lengths: Sequence[int], budget: int) -> list[Group]:
    """Groups whose lengths sum up to at most `budget`, by best fit on decreasing lengths.

    At most 11/9 of the fewest possible groups, and one more. What is longer than the budget stands alone.
    """
    groups: list[Group] = []
    rooms: list[tuple[int, int]] = []  # (tokens left, index of the group) of each group that still has room
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
    """Groups of neighbours in length; count times longest is at most `budget`, or the group is a single sequence."""
    groups: list[Group] = []
    for index in _longest_first(lengths):
        if not groups or (len(groups[-1]) + 1) * lengths[groups[-1][0]] > budget:
            groups.append([])
        groups[-1].append(index)
    return groups


def _longest_first(lengths: Sequence[int]) -> Group:
    return sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))


@dataclass(frozen=True, slots=True)
class InputSequence:
    """One context in front of one completion."""

    context: Tokens
    row: int
    """Index of the completion in the rank's batch."""
    view: int = 0
    """Index of the view in the plan; 0 for the student's own prompts."""


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
    result_index_N: Tensor
    """Where each of them stands in the results: `view * N + index of the token in the rank's batch`."""
    tokens: int
    """Tokens read, padding left out."""

    @property
    def positions(self) -> int:
        """Positions computed, padding included."""
        return self.ids_BL.numel()


def without_truncated(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The same rollouts, of which those that the limit on tokens cut have no completion: they count nowhere."""
    return [_without_completion(rollout) if rollout.truncated else rollout for rollout in rollouts]


def _without_completion(rollout: Rollout) -> Rollout:
    return replace(
        rollout,
        completion_tokens=rollout.completion_tokens[:0],
        logprobs=None if rollout.logprobs is None else rollout.logprobs[:0],
        lineages=None if rollout.lineages is None else rollout.lineages[:0],
        versions=None if rollout.versions is None else rollout.versions[:0],
    )


class RankBatch:
    """One rank's rollouts of a step, in the order in which the gradient passes take them.

    So each gradient pass predicts consecutive tokens of the N. The order changes no number: every completion carries
    its own tokens, and denominators are global.
    """

    def __init__(self, rollouts: Sequence[Rollout], device: torch.device, config: PackingConfig) -> None:
        nonempty = [rollout for rollout in rollouts if len(rollout.completion_tokens)]
        empty = [rollout for rollout in rollouts if not len(rollout.completion_tokens)]
        lengths = [_length(rollout.prompt_tokens, rollout) for rollout in nonempty]
        groups = config.groups(lengths, config.gradient_tokens)
        self.rollouts = [*empty, *(nonempty[index] for group in groups for index in group)]
        self.device, self._config = device, config
        self._sizes = [len(group) for group in groups]
        counts = np.array([len(rollout.completion_tokens) for rollout in self.rollouts], np.int64)
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        self.sequence_N = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(device)

    @property
    def tokens(self) -> int:
        """N."""
        return int(self.starts[-1])

    def order(self) -> Tensor:
        """`order_S` (long): the rank of each sequence among this rank's prompts, by their numbers."""
        numbers = torch.tensor([rollout.number for rollout in self.rollouts], dtype=torch.long, device=self.device)
        return numbers.argsort().argsort()

    def student_sequences(self) -> list[InputSequence]:
        """The student's own prompts: consecutive sequences predict consecutive tokens."""
        return self._with_tokens(InputSequence(rollout.prompt_tokens, row) for row, rollout in enumerate(self.rollouts))

    def view_sequences(self, specs: Sequence[ViewSpec]) -> list[InputSequence]:
        """Every view that a plan names, view after view; a completion may be without a negative view."""
        expected, sequences = Counter(spec.kind for spec in specs), []
        for number, spec in enumerate(specs):
            for row, rollout in enumerate(self.rollouts):
                views = rollout.views_of(spec.kind)
                if spec.kind is ViewKind.NEGATIVE and not views:
                    continue
                assert len(views) == expected[spec.kind], (
                    f"rollout {rollout.number} has {len(views)} {spec.kind.value} views, not {expected[spec.kind]}"
                )
                sequences.append(InputSequence(views[spec.index].tokens, row, number))
        return self._with_tokens(sequences)

    def has_view(self, spec: ViewSpec) -> Tensor:
        """`has_S` (bool): which completions have this view."""
        has = [len(rollout.views_of(spec.kind)) > spec.index for rollout in self.rollouts]
        return torch.tensor(has, dtype=torch.bool, device=self.device)

    def gradient_groups(self) -> list[list[InputSequence]]:
        """The student's sequences by gradient pass; in this order they predict the tokens 0 .. N - 1."""
        sequences = iter(self.student_sequences())
        return [[next(sequences) for _ in range(size)] for size in self._sizes]

    def scoring_groups(self, sequences: Sequence[InputSequence]) -> list[list[InputSequence]]:
        """Sequences by pass without gradient; within a pass, views follow each other."""
        lengths = [self.length(sequence) for sequence in sequences]
        groups = self._config.groups(lengths, self._config.scoring_tokens)
        return [[sequences[index] for index in sorted(group)] for group in groups]

    def length(self, sequence: InputSequence) -> int:
        """Tokens that are read: the context, and the completion but for its last token."""
        return _length(sequence.context, self.rollouts[sequence.row])

    def predicted(self, sequence: InputSequence) -> int:
        """Completion tokens that are predicted."""
        return len(self.rollouts[sequence.row].completion_tokens)

    def collate(self, sequences: Sequence[InputSequence]) -> Inputs:
        """One forward pass over `sequences`; their completions keep the order of the sequences."""
        pairs, indices = [], [np.empty(0, np.int64)]
        for sequence in sequences:
            rollout, row = self.rollouts[sequence.row], sequence.row
            assert len(sequence.context), f"rollout {rollout.number} has an empty context"
            pairs.append((sequence.context, rollout.completion_tokens))
            indices.append(sequence.view * self.tokens + np.arange(self.starts[row], self.starts[row + 1]))
        inputs = collate(pairs, self._config.packed, self.device)
        return replace(inputs, result_index_N=torch.from_numpy(np.concatenate(indices)).to(self.device))

    def _with_tokens(self, sequences: Iterable[InputSequence]) -> list[InputSequence]:
        return [sequence for sequence in sequences if len(self.rollouts[sequence.row].completion_tokens)]


def collate(pairs: Sequence[tuple[Tokens, Tokens]], packed: bool, device: torch.device) -> Inputs:
    """One forward pass over (context, completion) pairs; results stand in the order of the pairs' tokens."""
    if not pairs:
        none = torch.empty(0, dtype=torch.long, device=device)
        dummy = torch.zeros(1, 1, dtype=torch.long, device=device)
        return Inputs(dummy, Packing.of([1], device) if packed else None, none, none, none, 0)
    lengths = [len(context) + len(completion) - 1 for context, completion in pairs]
    width = sum(lengths) if packed else max(lengths)
    starts = np.cumsum([0, *lengths[:-1]]) if packed else np.arange(len(pairs)) * width
    ids_BL, predicts = np.zeros((1 if packed else len(pairs), width), np.int64), []
    for (context, completion), start, length in zip(pairs, starts, lengths, strict=True):
        ids_BL.flat[start : start + len(context)] = context
        ids_BL.flat[start + len(context) : start + length] = completion[:-1]
        predicts.append(np.arange(start + len(context) - 1, start + length))
    targets_N = np.concatenate([completion for _, completion in pairs]).astype(np.int64)
    return Inputs(
        ids_BL=torch.from_numpy(ids_BL).to(device),
        packing=Packing.of(lengths, device) if packed else None,
        predicts_N=torch.from_numpy(np.concatenate(predicts)).to(device),
        targets_N=torch.from_numpy(targets_N).to(device),
        result_index_N=torch.arange(len(targets_N), device=device),
        tokens=sum(lengths),
    )


def _length(context: Tokens, rollout: Rollout) -> int:
    return len(context) + len(rollout.completion_tokens) - 1

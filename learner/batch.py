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
completion is predicted, not read. Groups are as few as fit a budget of tokens (`layout.py` has the layouts):

```
 tree     neighbours in depth-first order: what they begin with is read once, and counts once
 packed   best fit of lengths
 padded   neighbours in length: they pad each other little
```

Where trees would save less than a tenth of the tokens the passes are packed: their attention is dearer.

Everything here is pure and deterministic: equal sequences give equal groups, ties go to the lower index.

Shape letters: N completion tokens, B rows and L columns of one pass, S sequences.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.attention import Packing
from learner.plan import ViewSpec
from learner.prefix_tree import PrefixTree
from unisd_rl.config.learner import Layout
from unisd_rl.types import Rollout, Tokens, ViewKind

Group = list[int]
"""Indices of the sequences of one pass."""
_LEAST_SAVED = 0.1
"""Share of the tokens that a tree must save: its attention is dearer than that of sequences end to end."""


@dataclass(frozen=True, slots=True)
class PackingConfig:
    """How a rank packs sequences into forward passes; changes no result beyond rounding."""

    layout: Layout
    gradient_tokens: int
    """Positions computed at most in a pass with gradient. A single sequence may be longer: it gets its own pass."""
    scoring_tokens: int
    """The same for a pass without gradient."""

    def groups(self, sequences: Sequence[Tokens], budget: int) -> tuple[list[Group], Layout]:
        """Passes over these sequences, of at most `budget` positions, and the layout that they are for."""
        lengths = [len(sequence) for sequence in sequences]
        if self.layout == "padded":
            return padded(lengths, budget), "padded"
        if self.layout == "tree":
            trees = PrefixTree.of(sequences).cut(budget)
            if sum(tree.tokens for tree in trees) <= (1.0 - _LEAST_SAVED) * sum(lengths):
                return [list(tree.order) for tree in trees], "tree"
        return best_fit(lengths, budget), "packed"


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
class Pass:
    """Sequences that one forward pass reads, and how they lie in it."""

    sequences: Sequence[InputSequence]
    layout: Layout


@dataclass(frozen=True, slots=True)
class Inputs:
    """One forward pass. An empty pass reads one dummy token and predicts none."""

    ids_BL: Tensor
    """long."""
    packing: Packing | None
    """Where the sequences lie in the one row; None: each row is a sequence, padded."""
    predicts_N: Tensor
    """Flat positions in [B * L] whose hidden states predict the pass's completion tokens; one that several sequences
    share may predict several."""
    targets_N: Tensor
    """Those tokens."""
    result_index_N: Tensor
    """Where each of them stands in the results: `view * N + index of the token in the rank's batch`."""
    read: tuple[int, ...]
    """Tokens that each sequence adds to the pass: those that it shares are counted at one of them, padding nowhere."""

    @property
    def tokens(self) -> int:
        """Tokens read, padding left out."""
        return sum(self.read)

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
        sequences = [_read_tokens(rollout.prompt_tokens, rollout.completion_tokens) for rollout in nonempty]
        groups, self._gradient_layout = config.groups(sequences, config.gradient_tokens)
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

    def gradient_passes(self) -> list[Pass]:
        """The passes over the student's sequences; in this order they predict the tokens 0 .. N - 1."""
        sequences = iter(self.student_sequences())
        return [Pass([next(sequences) for _ in range(size)], self._gradient_layout) for size in self._sizes]

    def scoring_passes(self, sequences: Sequence[InputSequence]) -> list[Pass]:
        """Passes without gradient; within a pass, views follow each other."""
        tokens = [_read_tokens(each.context, self.rollouts[each.row].completion_tokens) for each in sequences]
        groups, layout = self._config.groups(tokens, self._config.scoring_tokens)
        return [Pass([sequences[index] for index in sorted(group)], layout) for group in groups]

    def empty_pass(self) -> Pass:
        """A pass that predicts nothing."""
        return Pass([], self._config.layout)

    def predicted(self, sequence: InputSequence) -> int:
        """Completion tokens that are predicted."""
        return len(self.rollouts[sequence.row].completion_tokens)

    def collate(self, one: Pass) -> Inputs:
        """The inputs of a pass; the completions keep the order of its sequences."""
        pairs, indices = [], [np.empty(0, np.int64)]
        for sequence in one.sequences:
            rollout, row = self.rollouts[sequence.row], sequence.row
            assert len(sequence.context), f"rollout {rollout.number} has an empty context"
            pairs.append((sequence.context, rollout.completion_tokens))
            indices.append(sequence.view * self.tokens + np.arange(self.starts[row], self.starts[row + 1]))
        inputs = collate(pairs, one.layout, self.device)
        return replace(inputs, result_index_N=torch.from_numpy(np.concatenate(indices)).to(self.device))

    def _with_tokens(self, sequences: Iterable[InputSequence]) -> list[InputSequence]:
        return [sequence for sequence in sequences if len(self.rollouts[sequence.row].completion_tokens)]


def collate(pairs: Sequence[tuple[Tokens, Tokens]], layout: Layout, device: torch.device) -> Inputs:
    """One forward pass over (context, completion) pairs; results stand in the order of the pairs' tokens."""
    if not pairs:
        none, dummy = (
            torch.empty(0, dtype=torch.long, device=device),
            torch.zeros(1, 1, dtype=torch.long, device=device),
        )
        packing = None if layout == "padded" else Packing.of(PrefixTree.unshared([1]).row(), device)
        return Inputs(dummy, packing, none, none, none, ())
    sequences = [_read_tokens(context, completion) for context, completion in pairs]
    lengths = tuple(len(sequence) for sequence in sequences)
    if layout == "padded":
        width, packing, read = max(lengths), None, lengths
        paths: Sequence[NDArray[np.int64]] = [place * width + np.arange(each) for place, each in enumerate(lengths)]
        ids_BL = np.zeros((len(lengths), width), np.int64)
    else:
        row = (PrefixTree.of(sequences) if layout == "tree" else PrefixTree.unshared(lengths)).row()
        paths, read, packing = row.paths, row.added, Packing.of(row, device)
        ids_BL = np.zeros((1, sum(read)), np.int64)
    for path, sequence in zip(paths, sequences, strict=True):
        ids_BL.flat[path] = sequence
    starts = [len(context) - 1 for context, _ in pairs]
    predicts_N = np.concatenate([path[start:] for path, start in zip(paths, starts, strict=True)])
    targets_N = np.concatenate([completion for _, completion in pairs]).astype(np.int64)
    return Inputs(
        ids_BL=torch.from_numpy(ids_BL).to(device),
        packing=packing,
        predicts_N=torch.from_numpy(predicts_N).to(device),
        targets_N=torch.from_numpy(targets_N).to(device),
        result_index_N=torch.arange(len(targets_N), device=device),
        read=read,
    )


def _read_tokens(context: Tokens, completion: Tokens) -> Tokens:
    """What is read of a pair: the context, and the completion but for its last token."""
    return np.concatenate([context, completion[:-1]])

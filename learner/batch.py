"""From decoded rollouts to padded inputs: one rank's share of an optimiser step.

```
 rollouts --Share--> completions in one packed order, N tokens (no padding, no masks from here on)
    |
    +--readings--> (context, completion) pairs of the student or of some views
         +--pad--> ids_BL for one forward pass, and where in it each packed token is predicted
```

Inputs are padded on the right and the models are causal, so no real position ever sees a padded one: attention needs
no mask, and what the padded positions compute is never read. The last token of a completion is predicted, not read.

Shape letters: N packed completion tokens, B readings of one pass, L padded length, S sequences.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unisd_rl.types import Rollout, Tokens, ViewKind


@dataclass(frozen=True, slots=True)
class Reading:
    """One context in front of one completion."""

    context: Tokens
    row: int
    """Index of the completion in the share."""
    line: int = 0
    """Which line of the results this reading fills; 0 where there is only one."""

    def length(self, share: "Share") -> int:
        """Tokens that are read: the context, and the completion but for its last token."""
        return len(self.context) + len(share.rollouts[self.row].completion_tokens) - 1


@dataclass(frozen=True, slots=True)
class Padded:
    """Inputs of one forward pass. An empty pass reads one dummy token and predicts none."""

    ids_BL: Tensor
    """long."""
    predicts_N: Tensor
    """Flat positions in [B * L] whose hidden states predict the pass's completion tokens."""
    targets_N: Tensor
    """Those tokens."""
    places_N: Tensor
    """Where each of them stands in the results: `line * N + index in the share's packed order`."""
    read: int
    """Tokens read, padding left out."""


class Share:
    """One rank's rollouts of a step, shortest first, so that neighbours pad each other little.

    The order changes no number: every completion carries its own tokens, and denominators are global.
    """

    def __init__(self, rollouts: Sequence[Rollout], device: torch.device) -> None:
        self.rollouts = sorted(
            rollouts, key=lambda rollout: len(rollout.prompt_tokens) + len(rollout.completion_tokens)
        )
        self.device = device
        counts = np.array([len(rollout.completion_tokens) for rollout in self.rollouts], np.int64)
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        self.sequence_N = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(device)

    @property
    def tokens(self) -> int:
        """N."""
        return int(self.starts[-1])

    def students(self) -> list[Reading]:
        """The student's own prompts, in packed order: consecutive readings predict consecutive tokens."""
        return self._with_tokens(Reading(rollout.prompt_tokens, row) for row, rollout in enumerate(self.rollouts))

    def primaries(self) -> list[Reading]:
        """The primary view of each completion, in packed order."""
        views = [_single(rollout, ViewKind.PRIMARY) for rollout in self.rollouts]
        return self._with_tokens(Reading(view, row) for row, view in enumerate(views))

    def auxiliaries(self, views: int) -> list[Reading]:
        """The auxiliary views: view k fills line k."""
        found = [rollout.views_of(ViewKind.AUXILIARY) for rollout in self.rollouts]
        for rollout, contexts in zip(self.rollouts, found, strict=True):
            assert len(contexts) == views, f"rollout {rollout.number} has {len(contexts)} auxiliary views, not {views}"
        return self._with_tokens(
            Reading(view.tokens, row, line) for row, contexts in enumerate(found) for line, view in enumerate(contexts)
        )

    def negatives(self, line: int) -> list[Reading]:
        """The negative views of the completions that have one; all fill `line`."""
        found = [(row, rollout.view(ViewKind.NEGATIVE)) for row, rollout in enumerate(self.rollouts)]
        return self._with_tokens(Reading(view.tokens, row, line) for row, view in found if view is not None)

    def has_negative(self) -> Tensor:
        """`has_S` (bool): which completions have a negative view."""
        has = [rollout.view(ViewKind.NEGATIVE) is not None for rollout in self.rollouts]
        return torch.tensor(has, dtype=torch.bool, device=self.device)

    def pad(self, readings: Sequence[Reading]) -> Padded:
        """One forward pass over `readings`; their completions keep the order of the readings."""
        if not readings:
            none = torch.empty(0, dtype=torch.long, device=self.device)
            return Padded(torch.zeros(1, 1, dtype=torch.long, device=self.device), none, none, none, 0)
        lengths = [reading.length(self) for reading in readings]
        ids_BL = np.zeros((len(readings), max(lengths)), np.int64)
        predicts, targets, places = [], [], []
        for index, (reading, length) in enumerate(zip(readings, lengths, strict=True)):
            completion, context = self.rollouts[reading.row].completion_tokens, reading.context
            assert len(context), f"rollout {self.rollouts[reading.row].number} has an empty context"
            ids_BL[index, : len(context)] = context
            ids_BL[index, len(context) : length] = completion[:-1]
            predicts.append(index * ids_BL.shape[1] + np.arange(len(context) - 1, length))
            targets.append(completion)
            places.append(reading.line * self.tokens + np.arange(*self.starts[reading.row : reading.row + 2]))
        predicts_N, targets_N, places_N = (self._tensor(np.concatenate(parts)) for parts in (predicts, targets, places))
        return Padded(self._tensor(ids_BL), predicts_N, targets_N, places_N, sum(lengths))

    def by_length(self, readings: Sequence[Reading]) -> list[Reading]:
        """Shortest first, for passes whose results are scattered to their places anyway."""
        return sorted(readings, key=lambda reading: reading.length(self))

    def _with_tokens(self, readings: Iterable[Reading]) -> list[Reading]:
        return [reading for reading in readings if len(self.rollouts[reading.row].completion_tokens)]

    def _tensor(self, array: NDArray[np.integer]) -> Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(self.device)


def passes(readings: Sequence[Reading], size: int, count: int) -> Iterator[Sequence[Reading]]:
    """`count` groups of `size` consecutive readings; the last ones may be short or empty.

    `count` is the largest number of groups any rank needs: ranks that run unequal numbers of passes hang ZeRO-3.
    """
    assert count * size >= len(readings), f"{count} passes of {size} do not hold {len(readings)} readings"
    for index in range(count):
        yield readings[index * size : (index + 1) * size]


def _single(rollout: Rollout, kind: ViewKind) -> Tokens:
    view = rollout.view(kind)
    assert view is not None, f"rollout {rollout.number} has no {kind.value} view"
    return view.tokens

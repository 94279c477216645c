"""Seconds, tokens and passes of the parts of one step on one rank."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from learner.batch import Inputs
from learner.sharding import all_reduce_max, all_reduce_sum
from unisd_rl.metrics import READ_PARTS, ReadPart, Timing

Part = ReadPart | Literal["update"]
_VIEWS: tuple[ReadPart, ...] = ("primary", "auxiliary", "negative")


class StepTimer:
    """Adds up times and counts under the names of the step's parts.

    Views share passes, so the time of one view cannot be taken: the time of all their passes is divided among them in
    proportion to the tokens read in each.
    """

    def __init__(self) -> None:
        self.seconds: dict[Part, float] = dict.fromkeys((*READ_PARTS, "update"), 0.0)
        self.tokens: Counter[ReadPart] = Counter()
        self.forward_passes = 0
        """With gradient and without."""
        self.positions = 0
        """Computed in those passes, padding included."""
        self.spans: list[tuple[Part, float, float]] = []
        """(Part, when it began in seconds since the epoch, seconds), in order; views one after another, as divided."""
        self._epoch_s = time.time() - time.perf_counter()

    @contextmanager
    def measure(self, part: Part) -> Iterator[None]:
        """Add the time of this block to `part`."""
        started = _now()
        yield
        self._add(part, started, _now() - started)

    @contextmanager
    def measure_views(self) -> Iterator[None]:
        """Divide the time of this block among the views by the tokens that are counted in it."""
        started, before = _now(), self.tokens.copy()
        yield
        seconds, read = _now() - started, {view: self.tokens[view] - before[view] for view in _VIEWS}
        for view, tokens in read.items():
            share_s = seconds * tokens / max(sum(read.values()), 1)
            if share_s:
                self._add(view, started, share_s)
            started += share_s

    def count_tokens(self, part: ReadPart, tokens: int) -> None:
        """Add tokens read."""
        self.tokens[part] += tokens

    def count_pass(self, inputs: Inputs) -> None:
        """Add a forward pass."""
        self.forward_passes += 1
        self.positions += inputs.positions

    def _add(self, part: Part, started: float, seconds: float) -> None:
        self.seconds[part] += seconds
        self.spans.append((part, self._epoch_s + started, seconds))

    def timing(self, device: torch.device) -> Timing:
        """What all ranks measured: times of the slowest, tokens of all. A collective."""
        *read_s, update_s = all_reduce_max(list(self.seconds.values()), device)
        *tokens, positions = all_reduce_sum([*(self.tokens[part] for part in READ_PARTS), self.positions], device)
        (forward_passes,) = all_reduce_max([self.forward_passes], device)
        return Timing(
            read_s=dict(zip(READ_PARTS, read_s, strict=True)),
            read_tokens={part: int(count) for part, count in zip(READ_PARTS, tokens, strict=True)},
            update_s=update_s,
            forward_passes=int(forward_passes),
            padding_share=1.0 - sum(tokens) / positions if positions else 0.0,
        )


def _now() -> float:
    """On a GPU, when the work given to it is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()

"""Seconds, tokens and passes of the parts of one step on one rank."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from learner.batch import Inputs

VIEWS = ("primary", "auxiliary", "negative")
READ = (*VIEWS, "divergence", "gradient")
PARTS = (*READ, "update")


class Stopwatch:
    """Adds up times and counts under the names of the step's parts.

    Views share passes, so the time of one view cannot be taken: the time of all their passes is divided among them in
    proportion to the tokens read in each.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self.tokens: Counter[str] = Counter()
        self.forwards = 0
        """Passes, with gradient and without."""
        self.computed = 0
        """Positions that those computed, padding included."""

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time of this block to `part`."""
        started = _now()
        yield
        self.seconds[part] += _now() - started

    @contextmanager
    def measure_views(self) -> Iterator[None]:
        """Divide the time of this block among the views by the tokens that are counted in it."""
        started, before = _now(), self.tokens.copy()
        yield
        seconds, read = _now() - started, {view: self.tokens[view] - before[view] for view in VIEWS}
        for view, tokens in read.items():
            self.seconds[view] += seconds * tokens / max(sum(read.values()), 1)

    def count(self, part: str, tokens: int) -> None:
        """Add tokens read."""
        self.tokens[part] += tokens

    def passed(self, inputs: Inputs) -> None:
        """Add a forward pass."""
        self.forwards += 1
        self.computed += inputs.computed


def _now() -> float:
    """On a GPU, when the work given to it is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()

"""Seconds and tokens of the parts of one step on one rank."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PARTS = ("score", "primary", "other_views", "divergence", "student", "update")


class Stopwatch:
    """Adds up times and counts under the names of the step's parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self.tokens: Counter[str] = Counter()

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time of this block to `part`; on a GPU, the time until its work is done."""
        started = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[part] += time.perf_counter() - started

    def count(self, part: str, tokens: int) -> None:
        """Add tokens read."""
        self.tokens[part] += tokens

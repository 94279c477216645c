"""One line a step, on the screen and in metrics.jsonl."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Literal

from unisd_rl.driver.bottleneck import Balance
from unisd_rl.driver.console import Screen
from unisd_rl.driver.run_dir import RunDirectory
from unisd_rl.metrics import StepReport
from unisd_rl.transport.rollouts.driver_client import Batch

Part = Literal["wait_s", "learn_s", "publish_s"]


@dataclass(slots=True)
class StepTimes:
    """Seconds the driver spent in the parts of one step."""

    wait_s: float = 0.0
    learn_s: float = 0.0
    publish_s: float = 0.0

    @contextmanager
    def measure(self, part: Part) -> Iterator[None]:
        """Add the time of this block to `part`."""
        started = time.monotonic()
        try:
            yield
        finally:
            setattr(self, part, getattr(self, part) + time.monotonic() - started)

    @property
    def total_s(self) -> float:
        """The whole step."""
        return self.wait_s + self.learn_s + self.publish_s


def log_step(
    directory: RunDirectory,
    screen: Screen,
    report: StepReport,
    batch: Batch,
    times: StepTimes,
    balance: Balance,
    lineage: int,
) -> None:
    """Write the step's line to metrics.jsonl and show it. A later line of the same step supersedes an earlier one."""
    tokens_per_s = batch.tokens / max(times.total_s, 1e-9)
    line = {"lineage": lineage, **asdict(report), **asdict(times), **asdict(balance), "tokens_per_s": tokens_per_s}
    directory.log_step(line)
    screen.step(report, tokens_per_s)

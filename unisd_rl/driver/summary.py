"""`summary.json`: the run in numbers, each counted from what happened.

One line a step, on the screen and in metrics.jsonl.
"""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Literal

from actors.report import ActorReport
from unisd_rl.config import Config
from unisd_rl.contexts.prompts import PreparationReport
from unisd_rl.driver.bottleneck import Balance, Bottleneck
from unisd_rl.driver.console import Screen
from unisd_rl.driver.run_dir import RunDirectory
from unisd_rl.evaluation.statistics import Examined, Interval
from unisd_rl.metrics import StepMetrics
from unisd_rl.storage.lineage import Rollback
from unisd_rl.transport.rollouts.driver_client import Batch
from unisd_rl.transport.rollouts.report import QueueReport
from unisd_rl.types import PolicyVersion


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the loop achieved: for the summary and the last lines on the screen. Times and tokens are this process's."""

    interrupted: bool
    version: PolicyVersion
    before: Examined
    after: Examined | None
    waited_s: float
    loop_s: float
    tokens: int


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
    metrics: StepMetrics,
    batch: Batch,
    times: StepTimes,
    balance: Balance,
    lineage: int,
) -> None:
    """Write the step's line to metrics.jsonl and show it. A later line of the same step supersedes an earlier one."""
    tokens_per_s = batch.tokens / max(times.total_s, 1e-9)
    line = {"lineage": lineage, **metrics.flat(), **asdict(times), **asdict(balance), "tokens_per_s": tokens_per_s}
    directory.log_step(line)
    screen.step(metrics, tokens_per_s)


@dataclass(frozen=True, slots=True)
class Summary:
    """Fields of summary.json. Times in seconds unless they say otherwise, accuracies from 0 to 1, intervals 95 %.

    Rollouts and prompts are counted over the surviving chain of the whole run; times, speed and pauses are those of the
    process that ended it. `steps_lost` were trained and then rolled back past. Mean lengths in tokens, and their
    difference: see `QueueReport`.
    """

    status: str
    steps: int
    policy_version: int
    lineage: int
    engine: str
    steps_lost: int
    accuracy_before: float
    accuracy_before_interval: Interval
    accuracy_after: float | None
    accuracy_after_interval: Interval | None
    eval_examples: int
    retention_before: Mapping[str, float] | None
    retention_after: Mapping[str, float] | None
    prompts_issued: int
    prompts_dropped: int
    rollouts_consumed: int
    rollouts_lost: int
    rollouts_duplicated: int
    rollouts_quarantined: int
    rollouts_straddling: int
    max_staleness_seen: int
    mean_tokens_issued: float
    mean_tokens_consumed: float
    length_difference: float
    tokens_generated: int
    tokens_per_s: float
    learner_wait_fraction: float
    weight_pause_ms_median: float | None
    bottleneck: Bottleneck | None
    cores: str
    wall_s: float

    def to_json(self) -> dict[str, object]:
        """The object as it is written."""
        return asdict(self)


def summarise(
    config: Config,
    outcome: Outcome,
    preparation: PreparationReport,
    rollbacks: Sequence[Rollback],
    queue: QueueReport,
    actors: tuple[ActorReport, ...],
    bottleneck: Bottleneck | None,
    cores: str,
    wall_s: float,
) -> Summary:
    """Put together what the loop, the queue and the actors counted."""
    pauses = [pause for actor in actors for pause in actor.pauses_ms]
    return Summary(
        status="interrupted" if outcome.interrupted else "completed",
        steps=outcome.version.number,
        policy_version=outcome.version.number,
        lineage=outcome.version.lineage,
        engine=config.rollout.engine.type,
        steps_lost=sum(fall.steps_lost for fall in rollbacks),
        accuracy_before=outcome.before.accuracy,
        accuracy_before_interval=outcome.before.interval,
        accuracy_after=outcome.after.accuracy if outcome.after else None,
        accuracy_after_interval=outcome.after.interval if outcome.after else None,
        eval_examples=outcome.before.problems,
        retention_before=_retention(outcome.before),
        retention_after=_retention(outcome.after),
        prompts_issued=queue.issued,
        prompts_dropped=preparation.dropped,
        rollouts_consumed=queue.consumed,
        rollouts_lost=queue.lost,
        rollouts_duplicated=queue.duplicated,
        rollouts_quarantined=queue.quarantined,
        rollouts_straddling=queue.straddling,
        max_staleness_seen=queue.max_staleness_seen,
        mean_tokens_issued=queue.mean_tokens_issued,
        mean_tokens_consumed=queue.mean_tokens_consumed,
        length_difference=queue.length_difference,
        tokens_generated=queue.tokens,
        tokens_per_s=outcome.tokens / max(outcome.loop_s, 1e-9),
        learner_wait_fraction=outcome.waited_s / max(outcome.loop_s, 1e-9),
        weight_pause_ms_median=statistics.median(pauses) if pauses else None,
        bottleneck=bottleneck,
        cores=cores,
        wall_s=wall_s,
    )


def _retention(examined: Examined | None) -> Mapping[str, float] | None:
    return examined.retention if examined else None

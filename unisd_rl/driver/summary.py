"""`summary.json`: the run in numbers, each counted from what happened."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

from unisd_rl.cluster.cores import core_plan
from unisd_rl.driver.bottleneck import Bottleneck
from unisd_rl.driver.build import Run
from unisd_rl.evaluation.statistics import EvaluationSummary, Interval
from unisd_rl.types import PolicyVersion


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of training. `after` is None where the run was stopped; `loop_s` and `tokens` are this process's."""

    version: PolicyVersion
    before: EvaluationSummary
    after: EvaluationSummary | None
    loop_s: float
    tokens: int


class LoopTimer:
    """Seconds in the training loop, added up over rollbacks: steps that were discarded count."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started_s = 0.0

    def __enter__(self) -> None:
        self._started_s = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.monotonic() - self._started_s


@dataclass(frozen=True, slots=True)
class Summary:
    """Fields of summary.json. Times in seconds unless they say otherwise, accuracies from 0 to 1, intervals 95 %.

    Rollouts and prompts are counted over the steps that count, of the whole run; times, speed and pauses are those of
    the process that ended it. `steps_lost` were trained and then discarded by a rollback. Mean lengths are in tokens;
    for their difference see `QueueReport`.
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


def summarise(run: Run, outcome: Outcome, wall_s: float) -> Summary:
    """Put together what the loop, the queue and the actors counted."""
    before, after, queue = outcome.before, outcome.after, run.queue.report()
    pauses_ms = [pause for actor in run.rollouts.reports() for pause in actor.pauses_ms]
    return Summary(
        status="completed" if after else "interrupted",
        steps=outcome.version.number,
        policy_version=outcome.version.number,
        lineage=outcome.version.lineage,
        engine=run.config.rollout.engine.type,
        steps_lost=sum(rollback.steps_lost for rollback in run.directory.rollbacks()),
        accuracy_before=before.accuracy,
        accuracy_before_interval=before.interval,
        accuracy_after=after.accuracy if after else None,
        accuracy_after_interval=after.interval if after else None,
        eval_examples=before.problems,
        retention_before=before.retention,
        retention_after=after.retention if after else None,
        prompts_issued=queue.issued,
        prompts_dropped=run.prompts.preparation.dropped,
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
        learner_wait_fraction=run.meter.times.wait_s / max(outcome.loop_s, 1e-9),
        weight_pause_ms_median=statistics.median(pauses_ms) if pauses_ms else None,
        bottleneck=run.meter.total(),
        cores=core_plan(run.config).describe(),
        wall_s=wall_s,
    )

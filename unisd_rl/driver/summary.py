"""`summary.json`: the run in numbers, each counted from what happened."""

import statistics
import time
from dataclasses import dataclass

from unisd_rl.cluster.cores import core_plan
from unisd_rl.driver.bottleneck import Bottleneck
from unisd_rl.driver.build import Run
from unisd_rl.evaluation.statistics import EvaluationSummary
from unisd_rl.transport.rollouts.report import QueueReport
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
    """Fields of summary.json. Times in seconds unless they say otherwise.

    `queue` counts over the steps that count, of the whole run; times, speed and pauses are those of the process that
    ended it. `after` is None where the run was stopped.
    """

    status: str
    engine: str
    steps: int
    lineage: int
    before: EvaluationSummary
    after: EvaluationSummary | None
    queue: QueueReport
    prompts_dropped: int
    tokens_per_s: float
    learner_wait_fraction: float
    weight_pause_ms_median: float | None
    bottleneck: Bottleneck | None
    cores: str
    wall_s: float


def summarise(run: Run, outcome: Outcome, wall_s: float) -> Summary:
    """Put together what the loop, the queue and the actors counted."""
    pauses_ms = [pause for actor in run.rollouts.reports() for pause in actor.pauses_ms]
    return Summary(
        status="completed" if outcome.after else "interrupted",
        engine=run.config.rollout.engine.type,
        steps=outcome.version.number,
        lineage=outcome.version.lineage,
        before=outcome.before,
        after=outcome.after,
        queue=run.queue.report(),
        prompts_dropped=run.prompts.preparation.dropped,
        tokens_per_s=outcome.tokens / max(outcome.loop_s, 1e-9),
        learner_wait_fraction=run.meter.times.wait_s / max(outcome.loop_s, 1e-9),
        weight_pause_ms_median=statistics.median(pauses_ms) if pauses_ms else None,
        bottleneck=run.meter.total(),
        cores=core_plan(run.config).describe(),
        wall_s=wall_s,
    )

"""What follows an optimiser step: its line in metrics.jsonl and on the console, scaling, and the first weight check."""

from dataclasses import asdict

from unisd_rl.driver.bottleneck import StepTimes
from unisd_rl.driver.build import Run
from unisd_rl.driver.publish import verify_published
from unisd_rl.metrics import StepMetrics
from unisd_rl.transport.rollouts.driver_client import Batch
from unisd_rl.types import PolicyVersion


def after_step(run: Run, version: PolicyVersion, metrics: StepMetrics, batch: Batch, times: StepTimes) -> None:
    """Meter, log and scale after the step that led to `version`.

    The first update is also verified: an engine that takes over no weights is found after one step, not after the run.
    A later line of the same step in metrics.jsonl (after a rollback) supersedes an earlier one.

    Raises:
        RunFailed: see `verify_published`.
    """
    balance = run.meter.add(metrics, times, run.rollouts.pulses, batch.depth)
    tokens_per_s = batch.tokens / max(times.total_s, 1e-9)
    run.directory.log_step(
        {
            "lineage": version.lineage,
            **metrics.flat(),
            **asdict(times),
            **asdict(balance),
            "tokens_per_s": tokens_per_s,
        }
    )
    run.console.print_step(metrics, tokens_per_s)
    run.rollouts.observe(balance.learner_wait, run.meter.busy_share, batch.depth / run.config.learner.batch_size)
    if version.number == 1 and run.store.version == version:
        verify_published(run, version)

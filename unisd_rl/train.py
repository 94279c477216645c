"""The loop. It reads as the algorithm; who waits for whom:

    driver            queue                rollout actors         learner ranks
    ------            -----                --------------         -------------
    admit ----------> numbered prompts --> lease (admission rule)
                                           generate
                      ledger <------------ commit
    take  <---------- batch of step k, in order                   score, step, EMA
    step  ------------------------------------------------------> version k + 1
    publish <---------------------------------------------------- snapshot
    broadcast ---------------------------> update in mid-generation

Rollouts for the next steps are generated while the learner works on this one, at most
`max_staleness` versions ahead; nothing is dropped, nothing is trained on twice.
"""

import shutil
import time
from dataclasses import dataclass, replace

from actors.group import RolloutGroup
from learner.group import LearnerGroup
from unisd_rl.config import Config
from unisd_rl.evaluation import Evaluation, evaluate
from unisd_rl.interrupt import StopRequest, stop_request
from unisd_rl.prompts import PromptStream
from unisd_rl.retention.scorer import RetentionScorer
from unisd_rl.retention.table import retention_table
from unisd_rl.run_directory import RunDirectory
from unisd_rl.screen import Screen
from unisd_rl.step_log import StepTimes, log_step
from unisd_rl.tasks.task import Task
from unisd_rl.transport.rollouts.client import QueueClient
from unisd_rl.transport.weights.store import StoreClient
from unisd_rl.transport.weights.target import PublishTarget
from unisd_rl.types import PolicyVersion
from unisd_rl.weight_check import check_weights


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything a run is made of, started and ready."""

    config: Config
    task: Task
    prompts: PromptStream
    queue: QueueClient
    store: StoreClient
    rollouts: RolloutGroup
    learners: LearnerGroup
    directory: RunDirectory
    screen: Screen
    retention: RetentionScorer | None
    """Absent where retention is not measured."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the loop achieved: for the summary and the last lines on the screen."""

    interrupted: bool
    version: PolicyVersion
    before: Evaluation
    after: Evaluation | None
    waited_s: float
    loop_s: float


def train(parts: Parts) -> Outcome:
    """Run the algorithm from version 0 to the last step, or to the step at which a stop was asked for.

    Raises:
        RunFailed: a part failed, or a check on the run itself did; the sentence says which.
    """
    version = PolicyVersion(lineage=0, number=0)
    publish(parts, version)
    check_weights(parts.rollouts, parts.learners, parts.prompts, parts.config, version)
    before = examine(parts, version)
    parts.rollouts.run()
    with stop_request(parts.screen.stopping) as stop:
        started = time.monotonic()
        version, waited_s = learn(parts, version, stop)
        loop_s = time.monotonic() - started
        parts.learners.save(parts.directory.checkpoint(version.number))
        after = None if stop.requested else examined_at_the_end(parts, version)
    return Outcome(after is None, version, before, after, waited_s, loop_s)


def learn(parts: Parts, version: PolicyVersion, stop: StopRequest) -> tuple[PolicyVersion, float]:
    """Step after step; returns the version reached and the seconds the learner waited for rollouts."""
    config, waited_s = parts.config, 0.0
    for step in range(config.run.steps):
        times = StepTimes()
        admit(parts, step)
        with times.measure("wait_s"):
            batch = parts.queue.take(step, config.learner.ranks, config.run.step_timeout_s, parts.rollouts.check)
        with times.measure("learn_s"):
            report = parts.learners.step(batch.shards, version.number, config.run.step_timeout_s)
        version = PolicyVersion(version.lineage, version.number + 1)
        with times.measure("publish_s"):
            if config.rollout.sources.on_policy and version.number % config.weights.publish_every == 0:
                publish(parts, version)
        parts.rollouts.check()
        log_step(parts.directory, parts.screen, report, batch, times)
        waited_s += times.wait_s
        ready = parts.queue.report().depth / config.learner.batch_size
        parts.rollouts.observe(times.wait_s / times.total_s, ready)
        if version.number == 1 and parts.store.version == version:
            check_weights(parts.rollouts, parts.learners, parts.prompts, config, version)
        if stop.requested:
            break
        between_steps(parts, version)
    return version, waited_s


def admit(parts: Parts, step: int) -> None:
    """Give the queue every prompt that may start before step `step + 1` ends, and no further one."""
    config = parts.config
    end = min(step + config.rollout.max_staleness + 2, config.run.steps) * config.learner.batch_size
    parts.queue.admit(tuple(parts.prompts.prompt(number) for number in range(parts.queue.admitted, end)))


def publish(parts: Parts, version: PolicyVersion) -> None:
    """Snapshot of the student into the store (timed, synchronous); sending it on happens in the background."""
    if parts.store.version == version:
        return
    parts.learners.publish(version, PublishTarget(parts.store.handle, parts.rollouts.handles))
    parts.store.version = version
    parts.rollouts.broadcast(version)


def examine(parts: Parts, version: PolicyVersion) -> Evaluation:
    """Evaluate one version, all actors having applied it, and keep every answer."""
    with parts.screen.progress(f"evaluating version {version.number}") as progress:
        parts.rollouts.wait_for(version, parts.config.weights.timeout_s)
        evaluation = evaluate(parts.rollouts, parts.task, parts.config, version, progress)
    if parts.retention is not None:
        evaluation = with_retention(parts, parts.retention, evaluation)
    numbers = {"version": version.number, **evaluation.to_json(parts.config.evaluation.k)}
    parts.directory.write_evaluation(version.number, evaluation.answers, numbers)
    parts.screen.evaluated(evaluation)
    return evaluation


def with_retention(parts: Parts, scorer: RetentionScorer, evaluation: Evaluation) -> Evaluation:
    """Read what was answered with the student, lent as a folder, and with the initial model."""
    lent, step = parts.directory.path / "retention", evaluation.version.number
    with parts.screen.waiting("reading answers beside the initial model"):
        parts.learners.save(lent, resumable=False)
        retention = scorer.measure(lent, parts.task.evaluation, evaluation.answers)
        shutil.rmtree(lent)
    parts.directory.write_retention(step, retention_table(f"step-{step}", parts.config.task.type, retention))
    return replace(evaluation, retention=retention)


def examined_at_the_end(parts: Parts, version: PolicyVersion) -> Evaluation:
    """The last version, published whether or not its turn has come, checked and examined."""
    publish(parts, version)
    check_weights(parts.rollouts, parts.learners, parts.prompts, parts.config, version)
    return examine(parts, version)


def between_steps(parts: Parts, version: PolicyVersion) -> None:
    """Checkpoints and evaluations that fall due between two steps."""
    run, every = parts.config.run, parts.config.evaluation.every
    if version.number == run.steps:
        return
    if run.checkpoint_every and version.number % run.checkpoint_every == 0:
        parts.learners.save(parts.directory.checkpoint(version.number))
    if every and version.number % every == 0:
        publish(parts, version)
        examine(parts, version)

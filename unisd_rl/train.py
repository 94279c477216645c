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
`max_staleness` versions ahead; nothing is dropped, nothing is trained on twice. What breaks is mended beside the loop:
actors by their group (`rollouts.check`), the learner by `recovery.py`, which enters the loop again at a checkpoint.

One run from a checked configuration to its summary.
"""

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from unisd_rl.base_model import model_folder
from unisd_rl.cluster.cores import core_plan
from unisd_rl.cluster.ray_cluster import connected
from unisd_rl.cluster.resources import requirements
from unisd_rl.config import Config
from unisd_rl.driver.build import Parts, prompt_stream, started_parts
from unisd_rl.driver.checkpointing import insist, save, save_last
from unisd_rl.driver.console import Screen
from unisd_rl.driver.publish import check_published, publish, publish_checked, watch, watch_source
from unisd_rl.driver.recovery import LearnerRecovery
from unisd_rl.driver.run_dir import RunDirectory
from unisd_rl.driver.stop import StopRequest, stop_request
from unisd_rl.driver.summary import Outcome, StepTimes, Summary, log_step, summarise
from unisd_rl.errors import RunFailed, UserError
from unisd_rl.evaluation.evaluate import Evaluation, evaluate
from unisd_rl.evaluation.results import retention_table
from unisd_rl.evaluation.retention_process import RetentionScorer
from unisd_rl.evaluation.statistics import Examined
from unisd_rl.tasks.load import load_task
from unisd_rl.tasks.task import Task
from unisd_rl.types import PolicyVersion


@dataclass(slots=True)
class LoopTimes:
    """Seconds in the loop, steps that were lost included, and those of them spent waiting for rollouts."""

    loop_s: float = 0.0
    waited_s: float = 0.0


def train(parts: Parts, resumed: bool) -> Outcome:
    """Run the algorithm to the last step, or to the step at which a stop was asked for.

    Raises:
        RunFailed: a part failed more often than it may, or a check on the run itself did; the sentence says which.
    """
    learner, times = LearnerRecovery(parts), LoopTimes()
    version = learner.begin(resumed)
    version, before = learner.through(version, lambda version: (version, examined_before(parts, version)))
    tokens = parts.queue.report().tokens
    parts.rollouts.run()
    with stop_request(parts.screen.stopping) as stop:
        version, after = learner.through(version, lambda version: to_the_end(parts, version, stop, times))
    tokens = parts.queue.report().tokens - tokens
    return Outcome(after is None, version, before, after, times.waited_s, times.loop_s, tokens)


def to_the_end(
    parts: Parts, version: PolicyVersion, stop: StopRequest, times: LoopTimes
) -> tuple[PolicyVersion, Examined | None]:
    """The loop, the last checkpoint, and what came of it: None where a stop was asked for."""
    begun, started = version, time.monotonic()
    try:
        version = learn(parts, version, stop, times)
    finally:
        times.loop_s += time.monotonic() - started
    if version != begun:
        save_last(parts, version)
    return version, None if stop.requested else examined_at_the_end(parts, version)


def learn(parts: Parts, version: PolicyVersion, stop: StopRequest, times: LoopTimes) -> PolicyVersion:
    """Step after step from `version` on; returns the version reached."""
    config = parts.config
    examine_if_due(parts, version)
    for step in range(version.number, config.run.steps):
        spent = StepTimes()
        admit(parts, step)
        with spent.measure("wait_s"):
            waiting = partial(watch, parts, version)
            batch = parts.queue.take(step, config.learner.ranks, config.run.step_timeout_s, waiting)
        with spent.measure("learn_s"):
            metrics = parts.learners.step(batch.shards, step, config.run.step_timeout_s, version.lineage)
        version = PolicyVersion(version.lineage, step + 1)
        with spent.measure("publish_s"):
            if config.rollout.sources.on_policy and version.number % config.weights.publish_every == 0:
                publish(parts, version)
        watch(parts, version)
        balance = parts.meter.add(metrics, spent, parts.rollouts.pulses, batch.depth)
        log_step(parts.directory, parts.screen, metrics, batch, spent, balance, version.lineage)
        times.waited_s += spent.wait_s
        parts.rollouts.observe(balance.learner_wait, batch.depth / config.learner.batch_size)
        if version.number == 1 and parts.store.version == version:
            check_published(parts, version)
        if stop.requested:
            break
        between_steps(parts, version)
    return version


def admit(parts: Parts, step: int) -> None:
    """Give the queue every prompt that may start before step `step + 1` ends, and no further one."""
    config = parts.config
    end = min(step + config.rollout.max_staleness + 2, config.run.steps) * config.learner.batch_size
    parts.queue.admit(tuple(parts.prompts.prompt(number) for number in range(parts.queue.admitted, end)))


def between_steps(parts: Parts, version: PolicyVersion) -> None:
    """Checkpoints and evaluations that fall due between two steps."""
    every = parts.config.run.checkpoint_every
    if version.number == parts.config.run.steps:
        return
    if every and version.number % every == 0:
        save(parts, version)
    examine_if_due(parts, version)


def examine_if_due(parts: Parts, version: PolicyVersion) -> None:
    """The evaluation of this version between two steps, unless it was made before the learner rolled back to here."""
    every = parts.config.evaluation.every
    due = every and 0 < version.number < parts.config.run.steps and version.number % every == 0
    if due and parts.directory.examined(version.number) is None:
        publish(parts, version)
        examine(parts, version)


def examine(parts: Parts, version: PolicyVersion) -> Examined:
    """Evaluate one version, all actors having applied it, and keep every answer."""
    source = partial(watch_source, parts, version)
    with parts.screen.progress(f"evaluating version {version.number}") as progress:
        parts.rollouts.wait_for(version, parts.config.weights.timeout_s, source)
        evaluation = evaluate(parts.rollouts, parts.task, parts.config, version, progress, source)
    if parts.retention is not None:
        evaluation = with_retention(parts, parts.retention, evaluation)
    examined = evaluation.examined()
    numbers = {**examined.to_json(), **evaluation.to_json(parts.config.evaluation.k)}
    write = partial(parts.directory.write_evaluation, version.number, evaluation.answers, numbers)
    insist(parts, "evaluation", write)
    parts.screen.evaluated(evaluation)
    return examined


def with_retention(parts: Parts, scorer: RetentionScorer, evaluation: Evaluation) -> Evaluation:
    """Read what was answered with the student, lent as a folder, and with the initial model."""
    lent, step = parts.directory.path / "retention", evaluation.version.number
    with parts.screen.waiting("reading answers beside the initial model"):
        insist(parts, "evaluation", partial(parts.learners.save, lent))
        retention = scorer.measure(lent, parts.task.evaluation, evaluation.answers, parts.rollouts.check)
        shutil.rmtree(lent)
    table = retention_table(f"step-{step}", parts.config.task.type, retention)
    insist(parts, "evaluation", partial(parts.directory.write_retention, step, table))
    return replace(evaluation, retention=retention)


def examined_before(parts: Parts, version: PolicyVersion) -> Examined:
    """How good the initial model is: examined now, or read from the folder of the run that is taken up again."""
    found = parts.directory.examined(0)
    if found is None and version.number > 0:
        raise UserError(f"{parts.directory.path}/evaluations/step-0.json is missing: what the run is measured against")
    assert parts.store.version is not None, "the initial weights are published by now"
    return found or examine(parts, parts.store.version)


def examined_at_the_end(parts: Parts, version: PolicyVersion) -> Examined:
    """The last version, published whether or not its turn has come, checked and examined."""
    publish_checked(parts, version)
    return examine(parts, version)


def run_job(config: Config, resumed: bool = False) -> Summary:
    """Prepare, connect, train, report; `resumed`: go on in the folder that a run of this configuration left.

    Raises:
        UserError: the data, the model or the cluster is not what the configuration says.
        RunFailed: a part failed in mid-run; what was committed is on storage.
    """
    task = load_task(config.task)
    directory = RunDirectory(config.run_dir)
    (directory.reopen if resumed else directory.create)(config)
    try:
        return _run_in(directory, task, config, resumed)
    except (RunFailed, UserError) as error:
        _sum_up(directory, {"status": "failed", "error": str(error)})
        raise
    except KeyboardInterrupt:
        _sum_up(directory, {"status": "interrupted"})
        raise
    finally:
        directory.close()


def _sum_up(directory: RunDirectory, summary: dict[str, str]) -> None:
    """What ended the run is on its way to the screen: a disk that does not take it as well says nothing new."""
    with suppress(RunFailed):
        directory.write_summary(summary)


def _run_in(directory: RunDirectory, task: Task, config: Config, resumed: bool) -> Summary:
    started = time.monotonic()
    with Screen(config.run.steps) as screen, connected(config, requirements(config)):
        model = model_folder(config, directory.path, screen)
        prompts = prompt_stream(config, task, model, directory, screen)
        directory.refuse_other_prompts(prompts.checksum)
        with started_parts(config, task, prompts, model, directory, screen) as parts:
            outcome = train(parts, resumed)
            summary = summarise(
                config,
                outcome,
                prompts.preparation,
                directory.rollbacks(),
                parts.queue.report(),
                parts.rollouts.reports(),
                parts.meter.total(),
                core_plan(config).describe(),
                time.monotonic() - started,
            )
        directory.write_summary(summary.to_json())
        if summary.bottleneck is not None:
            screen.say(summary.bottleneck.describe())
        _say_goodbye(screen, directory, outcome)
    return summary


def _say_goodbye(screen: Screen, directory: RunDirectory, outcome: Outcome) -> None:
    checkpoint = directory.checkpoint(outcome.version.number)
    if outcome.after is None:
        screen.interrupted(directory.path)
    else:
        screen.finished(outcome.before, outcome.after, directory.path, checkpoint)

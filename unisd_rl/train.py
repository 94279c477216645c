"""The training loop, from a checked configuration to the run's summary. `train_steps` reads as the algorithm:

    driver            queue                rollout actors         learner ranks
    ------            -----                --------------         -------------
    admit ----------> numbered prompts --> lease (admission rule)
                                           generate
                      ledger <------------ commit
    take  <---------- batch of step k, in order                   score, step, EMA
    step  ------------------------------------------------------> version k + 1
    publish <---------------------------------------------------- snapshot --> store
    broadcast ---------------------------> update in mid-generation <--------- store

Rollouts for the next steps are generated while the learner works on this one. Who waits for whom, B prompts per step:

| process       | consumes          | waits for                               | unblocked by                       |
|---------------|-------------------|-----------------------------------------|------------------------------------|
| driver        | batch of step k   | rollouts of prompts kB .. kB + B - 1    | the actors' commits of them        |
| learner ranks | shards of step k  | the driver's call                       | `take`                             |
| rollout actor | leases            | a staleness slot: a prompt it may start | an actor applies version v         |
| rollout actor | weights           | a newer snapshot in the store           | `publish`, then `broadcast`        |

A staleness slot is freed when an actor applies version v: prompts below (v + max_staleness + 1) B may start on it. So
no token is more than `max_staleness` versions old when it is trained on, and nothing deadlocks: the proof stands in
transport/rollouts/admission.py. Nothing is dropped, and nothing is trained on twice.

Under `run.placement = "colocated"` both sides compute on the same cores, in turns, and a step is: generate until the
batch of step k is there; let the actors complete and commit what they hold, and sleep; step; publish, and let the
actors apply it; wake them. It is the same loop: only `learners_turn` lies around the step. On a GPU that both share, an
engine that sleeps has given its memory back, and loads what it was told to apply when it is next asked for an answer.

Failures are repaired beside the loop: those of actors by their group (`rollouts.check`), those of the learner by
driver/recovery.py, which enters the loop again at a checkpoint.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import datetime
from functools import partial

from unisd_rl.cluster.connect import connected, connecting
from unisd_rl.cluster.resources import requirements
from unisd_rl.cluster.stop import STOP, StopSignals
from unisd_rl.config import Config
from unisd_rl.contexts.selection import with_data_limits
from unisd_rl.driver.bottleneck import StepTimes
from unisd_rl.driver.build import Run, started_run
from unisd_rl.driver.checkpointing import save_checkpoint, save_last_checkpoint, write_card
from unisd_rl.driver.console import Console, describe_stop
from unisd_rl.driver.evaluations import baseline_evaluation, evaluate_if_due, final_evaluation
from unisd_rl.driver.publish import check_health, check_weight_sources, publish, verify_published
from unisd_rl.driver.recovery import LearnerRecovery
from unisd_rl.driver.report_writer import ReportWriter
from unisd_rl.driver.run_dir import RunDirectory
from unisd_rl.driver.summary import LoopTimer, Outcome, Summary, summarise
from unisd_rl.evaluation.statistics import EvaluationSummary
from unisd_rl.metrics import StepMetrics
from unisd_rl.models.check import check_model
from unisd_rl.storage.fork import keep_checkpoint
from unisd_rl.storage.logs import log_path
from unisd_rl.tasks.load import load_task
from unisd_rl.tasks.task import Task
from unisd_rl.transport.rollouts.driver_client import Batch
from unisd_rl.types import PolicyVersion, Stop


def run_job(config: Config, resumed: bool, console: Console) -> Summary:
    """Prepare, connect, train, summarise. `resumed`: in the folder that a run of this configuration left.

    Raises:
        UserError: the data, the model or the cluster is not what the configuration says.
        RunFailed: a component failed during the run; what was committed is on storage.
        KeyboardInterrupt: it was stopped outside a step; the sentence says how it goes on.
    """
    config = config.with_clock_stopped(datetime.now())
    with console.waiting("reading the data"):
        task = load_task(config.task)
        config, defaults = with_data_limits(config, task)
        check_model(config)
    directory = RunDirectory(config.run_dir)
    try:
        with directory.claimed(config, resumed):
            console.keep_output(log_path(directory.path, "driver"))
            keep_checkpoint(config, directory.path)
            for default in defaults:
                console.print(default.describe())
            return _connect_and_train(directory, task, config, resumed, console)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(describe_stop(directory.path)) from None


def _connect_and_train(directory: RunDirectory, task: Task, config: Config, resumed: bool, console: Console) -> Summary:
    started = time.monotonic()
    if directory.notice:
        console.print(directory.notice)
    with ExitStack() as stack:
        with console.waiting(connecting(config)):
            stack.enter_context(connected(config, requirements(config)))
        with started_run(config, task, directory, console) as run:
            outcome = train(run, resumed)
            summary = summarise(run, outcome, time.monotonic() - started)
        directory.write_summary(asdict(summary))
        ReportWriter(directory.path, directory.record).finish()
        _print_final_lines(console, directory, outcome, summary, config.rollout.max_completion_tokens)
    return summary


def train(run: Run, resumed: bool) -> Outcome:
    """Run the algorithm to the last step, or to the step at which a stop was requested.

    A failure after that is not repaired: a scheduler may have told all processes of a job to stop, not this one alone.

    Raises:
        RunFailed: a component failed more often than it may, or a check on the run itself did; the sentence says which.
        KeyboardInterrupt: a stop was requested outside a step, or again, or something failed after it.
    """
    recovery, timer = LearnerRecovery(run), LoopTimer()
    recovery.start_or_resume(resumed)
    before = recovery.run_with_recovery(partial(baseline_evaluation, run))
    tokens_before = run.queue.report().tokens
    run.rollouts.run()

    def work(version: PolicyVersion) -> tuple[PolicyVersion, EvaluationSummary | None]:
        with STOP.deferred(run.console.print_stop_notice):
            try:
                return train_and_finish(run, version, STOP, timer)
            except Exception as error:
                if STOP.requested:
                    run.console.print(f"no checkpoint of the last step: {error}")
                    STOP.check()
                raise

    version, after = recovery.run_with_recovery(work)
    if after is None:
        run.directory.record(Stop("driver", STOP.reason))
    return Outcome(version, before, after, timer.seconds, run.queue.report().tokens - tokens_before)


def train_and_finish(
    run: Run, version: PolicyVersion, stop: StopSignals, timer: LoopTimer
) -> tuple[PolicyVersion, EvaluationSummary | None]:
    """The steps from `version` on, the last checkpoint, and the final evaluation: None where a stop was requested."""
    start, evaluated = version, None
    run.trackers.begin(version.number)
    with timer:
        version = train_steps(run, version, stop)
    if version != start:
        save_last_checkpoint(run, version)
    if not stop.requested:
        with stop.ended_at_once():
            evaluated = final_evaluation(run, version)
            write_card(run, version)
    return version, evaluated


def train_steps(run: Run, version: PolicyVersion, stop: StopSignals) -> PolicyVersion:
    """Step after step from `version` on; returns the version reached. A stop ends an evaluation, and never a step."""
    with stop.ended_at_once():
        evaluate_if_due(run, version)
    for step in range(version.number, run.config.run.total_steps):
        if stop.requested:
            break
        times = StepTimes()
        admit(run, step)
        with run.phase("waiting for rollouts", step=step), times.measure("wait_s"):
            batch = take(run, step, version)
        with learners_turn(run, version, times):
            version = train_step(run, version, batch, times)
            if not stop.requested:
                run_periodic_work(run, version, stop)
    return version


def train_step(run: Run, version: PolicyVersion, batch: Batch, times: StepTimes) -> PolicyVersion:
    """Train `version` on its batch, publish and log; returns the version that follows."""
    step = version.number
    if run.grader is not None:
        run.grader.start(batch)
    with run.phase("learning", step=step), times.measure("learn_s"):
        arguments = (step, run.config.run.step_timeout_s, version.lineage, run.samples.numbers(step))
        metrics = run.learners.step(batch.shards, *arguments)
    version = PolicyVersion(version.lineage, step + 1)
    with run.phase("publishing", version=version.number), times.measure("publish_s"):
        publish_if_due(run, version)
    check_health(run, version)
    after_step(run, version, metrics, batch, times)
    return version


@contextmanager
def learners_turn(run: Run, version: PolicyVersion, times: StepTimes) -> Iterator[None]:
    """The block in which the learner computes; colocated, the actors sleep in it.

    Nothing is in flight then and no lease is held: a step may take longer than `rollout.lease_s`. Completing what they
    held is a wait for rollouts. After a failure in the block they are woken too.
    """
    if not run.config.run.colocated:
        yield
        return
    with ExitStack() as turn:
        with run.track.span("waiting for rollouts", step=version.number), times.measure("wait_s"):
            others = partial(check_weight_sources, run, version)
            turn.enter_context(run.rollouts.asleep(run.config.run.step_timeout_s, others))
        yield


def admit(run: Run, step: int) -> None:
    """Give the queue every prompt that may start before step `step + 1` ends, and no further one."""
    config = run.config
    end = min(step + config.rollout.max_staleness + 2, config.run.total_steps) * config.learner.batch_size
    run.queue.admit(tuple(run.prompts.prompt(number) for number in range(run.queue.admitted, end)))


def take(run: Run, step: int, version: PolicyVersion) -> Batch:
    """Wait for the rollouts of `step`, one shard for each rank; the learner is at `version` meanwhile."""
    config = run.config
    return run.queue.take(step, config.learner.ranks, config.run.step_timeout_s, partial(check_health, run, version))


def publish_if_due(run: Run, version: PolicyVersion) -> None:
    """Publish every `weights.publish_every` steps, unless no rollout is sampled by the student.

    Colocated, wait until the actors have applied it: what they began before would be read twice.
    """
    if run.config.rollout.sources.on_policy and version.number % run.config.weights.publish_every == 0:
        publish(run, version)
        if run.config.run.colocated:
            others = partial(check_weight_sources, run, version)
            run.rollouts.wait_for(version, run.config.weights.timeout_s, others)


def after_step(run: Run, version: PolicyVersion, metrics: StepMetrics, batch: Batch, times: StepTimes) -> None:
    """Meter, log and scale after the step that led to `version`.

    The first update is also verified: an engine that takes over no weights is found after one step, not after the run.
    A later line of the same step in metrics.jsonl (after a rollback) supersedes an earlier one.

    Raises:
        RunFailed: see `verify_published`.
    """
    balance = run.meter.add(metrics, times, run.rollouts.pulses, batch.depth)
    tokens_per_s = batch.tokens / max(times.total_s, 1e-9)
    answers = None if run.grader is None else run.grader.result()
    line = {"lineage": version.lineage, **metrics.flat(), **asdict(times), **asdict(balance)}
    grades = {} if answers is None else asdict(answers)
    line |= {"tokens_per_s": tokens_per_s, **grades}
    run.directory.log_step(line)
    run.trackers.step(line)
    run.console.observe_step(line, run.consumed.tokens_by_actor(metrics.step, version.lineage))
    run.console.print_step(metrics, tokens_per_s, answers)
    if run.samples.numbers(metrics.step):
        run.directory.log_samples(run.samples.line(version, sample) for sample in run.learners.token_samples())
    run.alarms.observe(metrics)
    run.rollouts.observe(balance.learner_wait, run.meter.busy_share, batch.depth / run.config.learner.batch_size)
    if version.number == 1 and run.store.version == version:
        verify_published(run, version)


def run_periodic_work(run: Run, version: PolicyVersion, stop: StopSignals) -> None:
    """Checkpoints and evaluations that are due between two steps."""
    every = run.config.run.checkpoint_every
    if version.number == run.config.run.total_steps:  # `train_and_finish` does both
        return
    if every and version.number % every == 0:
        save_checkpoint(run, version)
    if not stop.requested:
        with stop.ended_at_once():
            evaluate_if_due(run, version)


def _print_final_lines(
    console: Console, directory: RunDirectory, outcome: Outcome, summary: Summary, limit: int
) -> None:
    if summary.bottleneck is not None:
        console.print(summary.bottleneck.describe())
    if outcome.after is None:
        console.print_interrupted(directory.path)
    else:
        checkpoint = directory.checkpoint(outcome.version.number)
        console.print_finished(outcome.before, outcome.after, limit, directory.path, checkpoint)
        if directory.report.is_file():
            console.print(f"report {directory.report}")

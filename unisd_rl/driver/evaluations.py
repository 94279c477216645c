"""Evaluations of a run: of the initial model, between steps, and of the last version."""

import shutil
from dataclasses import asdict, replace
from functools import partial

from unisd_rl.driver.build import Run
from unisd_rl.driver.checkpointing import write_with_retries
from unisd_rl.driver.publish import check_weight_sources, publish, publish_and_verify
from unisd_rl.errors import UserError
from unisd_rl.evaluation.evaluate import Evaluation, evaluate
from unisd_rl.evaluation.results import retention_table
from unisd_rl.evaluation.retention_process import RetentionScorer
from unisd_rl.evaluation.statistics import EvaluationSummary
from unisd_rl.types import PolicyVersion

_SHOWN = 16
"""Answers of an evaluation that trackers are told."""
_VERDICT = {True: "right", False: "wrong"}


def baseline_evaluation(run: Run, version: PolicyVersion) -> EvaluationSummary:
    """What the run is compared with: the initial model, evaluated now, or as read from the folder of a resumed run.

    Raises:
        UserError: the run goes on from `version` > 0, and the evaluation is not in its folder.
    """
    recorded = run.directory.evaluation_summary(0)
    if recorded is None and version.number > 0:
        raise UserError(
            f"{run.directory.path}/evaluations/step-0.json is missing, and the run is compared with it: put it back"
        )
    assert run.store.version is not None, "the initial weights are published by now"
    return recorded or evaluate_version(run, run.store.version)


def evaluate_if_due(run: Run, version: PolicyVersion) -> None:
    """The evaluation between two steps, unless it was made before the learner rolled back to `version`."""
    every = run.config.evaluation.every
    due = every and 0 < version.number < run.config.run.total_steps and version.number % every == 0
    if due and run.directory.evaluation_summary(version.number) is None:
        publish(run, version)
        evaluate_version(run, version)


def final_evaluation(run: Run, version: PolicyVersion) -> EvaluationSummary:
    """The last version, published whether or not that is due, verified and evaluated."""
    publish_and_verify(run, version)
    return evaluate_version(run, version)


def evaluate_version(run: Run, version: PolicyVersion) -> EvaluationSummary:
    """Evaluate a published version once all actors have applied it; every answer goes to the run's folder.

    Raises:
        LearnerLost: see `check_weight_sources`.
        RunFailed: no actor has applied the version in time, or the disk does not take the answers.
    """
    on_wait = partial(check_weight_sources, run, version)
    shown = run.console.progress(f"evaluating version {version.number}")
    with shown as progress, run.track.span("evaluation", version=version.number):
        run.rollouts.wait_for(version, run.config.weights.timeout_s, on_wait)
        evaluation = evaluate(run.rollouts, run.task, run.config, version, progress, on_wait)
    if run.retention is not None:
        evaluation = _with_retention(run, run.retention, evaluation)
    summary = evaluation.summary()
    numbers = {**asdict(summary), **evaluation.to_json(run.config.evaluation.k)}
    write = partial(run.directory.write_evaluation, version.number, evaluation.answers, numbers)
    write_with_retries(run, "evaluation", write)
    run.console.print_evaluation(evaluation, run.config.rollout.max_completion_tokens)
    run.page.start()
    rows = [(answer.question, answer.completion, _VERDICT[answer.correct]) for answer in evaluation.answers[:_SHOWN]]
    run.trackers.evaluation(version.number, numbers, rows)
    return summary


def _with_retention(run: Run, scorer: RetentionScorer, evaluation: Evaluation) -> Evaluation:
    """Read the answers with the student, saved to a folder for as long, and with the initial model."""
    student, step = run.directory.path / "retention", evaluation.version.number
    with run.console.waiting("measuring retention against the initial model"):
        write_with_retries(run, "evaluation", partial(run.learners.save, student))
        retention = scorer.measure(student, run.task.evaluation, evaluation.answers, run.rollouts.check)
        shutil.rmtree(student)
    table = retention_table(f"step-{step}", run.config.task.type, retention)
    write_with_retries(run, "evaluation", partial(run.directory.write_retention, step, table))
    return replace(evaluation, retention=retention)

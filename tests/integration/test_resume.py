"""A run that loses its learner or its driver: it goes on at a checkpoint, and every prompt is trained on exactly once.

Real Ray, DeepSpeed and the transformers engine. No vLLM engine is started.
"""

import json
import os
import signal
import subprocess

import pytest

from tests.fakes.finished import (
    FinishedRun,
    assert_accuracy_is_what_its_items_say,
    assert_every_prompt_exactly_once_and_in_order,
    assert_groups_are_whole,
    assert_people_see_what_counts,
    assert_staleness_within,
    finished,
    process_of,
    read_until,
    resume_job,
    start_job,
)
from tests.fakes.job import Job
from tests.fakes.tracker_readers import INSTALLED

STEPS, BATCH = 12, 16
SHORT = (
    "--run.steps", str(STEPS), "--learner.batch_size", str(BATCH), "--task.eval_examples", "16",
    "--rollout.engine.type", "transformers", "--run.checkpoint_every", "3",
)  # fmt: skip


def assert_the_chain_is_whole(run: FinishedRun, lineage: int) -> None:
    assert run.summary["status"] == "completed"
    assert run.summary["steps"] == STEPS
    assert run.summary["lineage"] == lineage == len(run.rollbacks)
    assert_every_prompt_exactly_once_and_in_order(run, STEPS, BATCH)
    assert_staleness_within(run, bound=1)
    assert_accuracy_is_what_its_items_say(run)


def assert_metrics_tell_the_chain(run: FinishedRun) -> None:
    trained_last = {row["step"]: row["lineage"] for row in run.metrics}
    assert sorted(trained_last) == list(range(STEPS))
    assert trained_last == {row["step"]: row["learner_lineage"] for row in run.surviving}


def assert_fed_again_and_not_generated_anew(run: FinishedRun) -> None:
    """What was trained on before the rollback is trained on again with the tokens it had."""
    for fall in run.rollbacks:
        again = range(fall["step"], fall["step"] + fall["steps_lost"])
        rows = [row for row in run.consumed if row["learner_lineage"] == fall["lineage"] and row["step"] in again]
        assert len(rows) == len(again) * BATCH
        assert all(row["lineage"] < fall["lineage"] for row in rows)


def test_after_kill_9_of_the_driver_the_same_prompts_are_trained_on_each_once(tmp_path):
    """Four answers to each prompt; most of the others here have one."""
    trackers = ["tensorboard", *INSTALLED]
    told = ("--tracking.to", json.dumps(trackers))
    running = start_job(tmp_path, *SHORT, "--rollout.answers_per_prompt", "4", *told, WANDB_MODE="offline")
    read_until(running, f"step    5/{STEPS}")
    running.kill()
    running.wait(timeout=60)
    run = finished(tmp_path, resume_job(tmp_path, WANDB_MODE="offline"))
    assert_the_chain_is_whole(run, lineage=1)
    assert_metrics_tell_the_chain(run)
    assert_people_see_what_counts(run, trackers)
    assert_fed_again_and_not_generated_anew(run)
    assert_groups_are_whole(run, answers=4)
    assert all(row["train_accuracy"] <= row["train_pass_at_g"] <= 1.0 for row in run.metrics)
    assert run.rollbacks[0]["step"] == 3
    assert run.summary["queue"]["steps_lost"] == run.rollbacks[0]["steps_lost"] >= 2
    assert "evaluating version 0" not in run.output
    kept = {path.name for path in (run.path / "checkpoints").iterdir()}
    assert kept == {"step-6", "step-9", f"step-{STEPS}"}


@pytest.mark.slow
def test_a_killed_learner_rank_falls_back_and_the_run_finishes(tmp_path):
    trackers = ["tensorboard", *INSTALLED]
    running = start_job(tmp_path, *SHORT, "--tracking.to", json.dumps(trackers), WANDB_MODE="offline")
    seen = read_until(running, f"step    5/{STEPS}")
    os.kill(process_of(tmp_path / "run" / "logs" / "learner-0.log"), signal.SIGKILL)
    run = finished(tmp_path, running, seen)
    assert_the_chain_is_whole(run, lineage=1)
    assert_metrics_tell_the_chain(run)
    assert_fed_again_and_not_generated_anew(run)
    assert run.rollbacks[0]["step"] in (3, 6)
    assert_people_see_what_counts(run, trackers)
    happened = [(event["event"], event["component"]) for event in run.events]
    assert happened == [("failure", "learner"), ("recovery", "learner")]


@pytest.mark.slow
def test_one_of_two_ranks_killed_ends_both_and_the_run_finishes(tmp_path):
    running = start_job(tmp_path, *SHORT, "--learner.ranks", "2", "--learner.zero_stage", "3")
    seen = read_until(running, f"step    5/{STEPS}")
    os.kill(process_of(tmp_path / "run" / "logs" / "learner-1.log"), signal.SIGKILL)
    run = finished(tmp_path, running, seen)
    assert_the_chain_is_whole(run, lineage=1)
    assert_fed_again_and_not_generated_anew(run)


@pytest.mark.slow
def test_a_checkpoint_cut_short_is_passed_over_and_the_one_before_it_used(tmp_path):
    running = start_job(tmp_path, *SHORT)
    seen = read_until(running, f"step    7/{STEPS}")
    newest = tmp_path / "run" / "checkpoints" / "step-6" / "training_state" / "tensors-00000.safetensors"
    os.truncate(newest, newest.stat().st_size // 2)
    os.kill(process_of(tmp_path / "run" / "logs" / "learner-0.log"), signal.SIGKILL)
    run = finished(tmp_path, running, seen)
    assert_the_chain_is_whole(run, lineage=1)
    assert_fed_again_and_not_generated_anew(run)
    assert run.rollbacks[0]["step"] == 3
    (fault,) = [event for event in run.events if event["component"] == "checkpoint"]
    assert "step-6" in fault["reason"]


@pytest.mark.slow
def test_a_run_that_had_no_checkpoint_yet_begins_again_with_the_rows_of_its_ledger(tmp_path):
    running = start_job(tmp_path, *SHORT, "--run.checkpoint_every", "0")
    read_until(running, f"step    4/{STEPS}")
    running.kill()
    running.wait(timeout=60)
    run = finished(tmp_path, resume_job(tmp_path))
    assert_the_chain_is_whole(run, lineage=1)
    assert_fed_again_and_not_generated_anew(run)
    assert run.rollbacks[0]["step"] == 0


@pytest.mark.slow
def test_a_stopped_run_goes_on_from_its_checkpoint_on_other_ranks_and_actors(tmp_path):
    running = start_job(tmp_path, *SHORT)
    read_until(running, f"step    4/{STEPS}")
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=120)
    assert running.returncode == 130
    stopped = FinishedRun(tmp_path / "run", "").summary["steps"]
    others = ("--learner.ranks", "2", "--learner.zero_stage", "2", "--rollout.actors", "2")
    run = finished(tmp_path, resume_job(tmp_path, *others))
    assert_the_chain_is_whole(run, lineage=1)
    assert_metrics_tell_the_chain(run)
    assert run.rollbacks == [{"lineage": 1, "step": stopped, "steps_lost": 0}]
    refused = resume_job(tmp_path)
    assert "has finished" in refused.communicate(timeout=60)[0]
    assert refused.returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["ssd", "sft"])
def test_actors_that_never_follow_the_student_keep_the_initial_weights(tmp_path, recipe):
    running = start_job(tmp_path, recipe, *SHORT)
    seen = read_until(running, f"step    5/{STEPS}")
    os.kill(process_of(tmp_path / "run" / "logs" / "learner-0.log"), signal.SIGKILL)
    run = finished(tmp_path, running, seen)
    assert run.summary["lineage"] == 1
    assert_every_prompt_exactly_once_and_in_order(run, STEPS, BATCH)
    assert_accuracy_is_what_its_items_say(run)


@pytest.mark.slow
def test_a_weight_store_that_dies_is_filled_again(tmp_path):
    running = start_job(tmp_path, *SHORT, "--run.steps", "40")
    seen = read_until(running, "step    3/40")
    os.kill(store_of(running), signal.SIGKILL)
    run = finished(tmp_path, running, seen)
    assert_every_prompt_exactly_once_and_in_order(run, 40, BATCH)
    assert run.summary["lineage"] == 0
    assert ("recovery", "store") in [(event["event"], event["component"]) for event in run.events]


def store_of(running: Job) -> int:
    """The process of the weight store: Ray names its processes, and those of a run descend from its driver."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    parent = {int(pid): int(parent) for pid, parent, _ in rows}

    def descends(pid: int) -> bool:
        while pid in parent and pid != running.pid:
            pid = parent[pid]
        return pid == running.pid

    (found,) = [int(pid) for pid, _, args in rows if args.startswith("ray::WeightStore") and descends(int(pid))]
    return found

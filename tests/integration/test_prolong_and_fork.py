"""A finished run that is prolonged, and a fork of it: each trains on every prompt once, and is replayed bit for bit.

Real Ray, DeepSpeed and the transformers engine.
"""

import math
import subprocess
import sys
import tomllib

import pytest

from tests.fakes.finished import (
    REPOSITORY,
    TIMEOUT_S,
    FinishedRun,
    assert_every_prompt_exactly_once_and_in_order,
    finished,
    resume_job,
    run_job,
)

STEPS, LONGER, BATCH, RATE = 3, 5, 8, 2e-4
SHORT = (
    "--run.steps", str(STEPS), "--learner.batch_size", str(BATCH), "--task.train_examples", "100",
    "--task.eval_examples", "8", "--rollout.engine.type", "transformers", "--run.checkpoint_every", "2",
    "--learner.warmup_fraction", "0",
)  # fmt: skip


def command(program, *arguments):
    ended = subprocess.run(
        [sys.executable, "-m", f"unisd_rl.{program}", *map(str, arguments)],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def cosine(step, steps):
    return RATE / 2 * (1 + math.cos(math.pi * step / steps))


def config_of(run):
    return tomllib.loads((run.path / "config.toml").read_text())["run"]


@pytest.mark.slow
def test_a_finished_run_is_prolonged_and_a_fork_of_it_begins_with_its_checkpoint(tmp_path):
    folder, run = tmp_path, run_job(tmp_path, *SHORT)
    longer = finished(folder, resume_job(folder, "--run.steps", str(LONGER)))
    assert "prolonged from 3 to 5 steps" in longer.output
    assert_every_prompt_exactly_once_and_in_order(longer, LONGER, BATCH)
    assert (config_of(longer)["steps"], config_of(longer)["earlier_steps"]) == (LONGER, [STEPS])
    rates = [cosine(0, 3), cosine(1, 3), cosine(2, 3), cosine(3, 5), cosine(4, 5)]
    assert [line["learning_rate"] for line in longer.metrics] == pytest.approx(rates)
    assert [event["event"] for event in longer.events if event["event"] == "failure"] == []
    assert f"all {LONGER} losses compared equal" in command("replay", longer.path, "--check")

    command("run", "--fork", f"{longer.path}@{STEPS}", "--objective.clipping", "null", "--run.steps", 2)
    fork = FinishedRun(folder / f"run-from-{STEPS}", "")
    assert_every_prompt_exactly_once_and_in_order(fork, 2, BATCH)
    assert config_of(fork)["forked_from"] == f"{longer.path}@{STEPS}"
    assert fork.answers(0) != run.answers(0), "its first evaluation is of the checkpoint, not of the initial model"
    assert [answer["completion"] for answer in fork.answers(0)] == [a["completion"] for a in run.answers(STEPS)]
    assert fork.metrics[0]["teacher_student_distance"] > 0
    assert "all 2 losses compared equal" in command("replay", fork.path, "--check")
    prolonged = command("run", "--resume", fork.path, "--run.steps", 3)
    assert "step    3/3" in prolonged

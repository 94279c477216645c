"""SIGTERM and SIGINT at every phase of a run: one line, a `summary.json`, no process left, and a run that resumes.

Two phases in the default tier (the actors' start, and a step); the base model's training takes a minute alone.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from tests.fakes.finished import (
    REPOSITORY,
    FinishedRun,
    assert_every_prompt_exactly_once_and_in_order,
    finished,
    read_until,
    resume_job,
    start_job,
)
from tests.fakes.lives import MARK, leftovers
from unisd_rl.cluster.stop import STOPPED
from unisd_rl.storage.checkpoints import open_verified

STEPS, BATCH = 4, 16
SHORT = (
    "--run.steps", str(STEPS), "--learner.batch_size", str(BATCH), "--task.eval_examples", "32",
    "--run.checkpoint_every", "2", "--evaluation.every", "2", "--rollout.engine.type", "transformers",
)  # fmt: skip
VLLM = ("--rollout.engine.type", "vllm")
STOP_S, GONE_S = 90.0, 30.0


@dataclass(frozen=True)
class Phase:
    """`begins` when the last line printed starts so, or when `there` matches a file of the run; then `after_s` more."""

    begins: str = ""
    there: str = ""
    after_s: float = 0.0
    arguments: tuple[str, ...] = ()
    own_cache: bool = False


ACTOR_START = Phase(there="logs/rollout-0.log", after_s=2.0)  # its process is there, and imports
STEP = Phase(begins="step    1/", after_s=0.05)
OTHERS = {
    "base_model": Phase(begins="base model", after_s=5.0, own_cache=True),
    "preparation": Phase(begins="preparing contexts", own_cache=True),
    "ray": Phase(begins="training on", after_s=0.0),
    "learner_start": Phase(there="logs/learner-0.log", after_s=1.0),
    "vllm_start": Phase(there="logs/rollout-0.log", after_s=6.0, arguments=VLLM),
    "engine_compute": Phase(there="logs/rollout-0.log", after_s=20.0, arguments=VLLM),
    "first_evaluation": Phase(begins="evaluating version 0"),
    "checkpoint": Phase(there="checkpoints/step-2.partial"),
    "evaluation": Phase(begins="evaluating version 2"),
    "last_evaluation": Phase(begins=f"evaluating version {STEPS}"),
}


def wait_until(ready, what, timeout_s):
    end_s = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < end_s, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.01)


def stopped(folder: Path, phase: Phase, number: signal.Signals, mark: str, **environment: str) -> FinishedRun:
    """A run that got this signal in this phase and has ended."""
    log, run = folder / "screen.log", folder / "run"
    running = start_job(folder, *SHORT, *phase.arguments, PYTHONUNBUFFERED="1", **{MARK: mark}, **environment)
    output = []
    try:
        if phase.begins:
            for line in running.stdout:
                output.append(line)
                if line.startswith(phase.begins):
                    break
        else:
            wait_until(lambda: list(run.glob(phase.there)), phase.there, 300.0)
        time.sleep(phase.after_s)
        assert running.poll() is None, f"it ended before {phase}:\n{''.join(output)}{running.stdout.read()}"
        running.send_signal(number)
        output.append(running.communicate(timeout=STOP_S)[0])
    finally:
        running.kill()
    log.write_text("".join(output))
    assert running.returncode == STOPPED, log.read_text()[-3000:]
    return FinishedRun(run, output[-1])


OTHERWISE = ("--rollout.concurrency", "32")


def check_stop(
    folder: Path, phase: Phase, number: signal.Signals, resumed_with: Sequence[str] = OTHERWISE, **environment: str
) -> FinishedRun:
    mark = uuid4().hex
    run = stopped(folder, phase, number, mark, **environment)
    wait_until(lambda: not leftovers(mark), f"the end of {leftovers(mark)}", GONE_S)
    assert run.output.splitlines()[-1] == f"stopped; resume with: python -m unisd_rl.run --resume {run.path}"
    assert "Traceback" not in run.output
    assert "SIGTERM received" not in run.output  # native stacks
    assert run.summary["status"] == "interrupted"
    assert [event["reason"] for event in run.events if event["event"] == "stop"] == [number.name]
    if steps := run.summary.get("steps"):  # it was completed: so is its checkpoint
        assert open_verified(run.checkpoint(steps)).state.version == steps
        assert_every_prompt_exactly_once_and_in_order(run, steps, BATCH)
    resumed = finished(folder, resume_job(folder, *resumed_with, **environment))
    assert resumed.summary["status"] == "completed"
    assert resumed.summary["steps"] == STEPS
    assert_every_prompt_exactly_once_and_in_order(resumed, STEPS, BATCH)
    assert [event["event"] for event in resumed.events] == ["stop", "resumption"]
    return resumed


def test_sigterm_while_actors_start_leaves_nothing_behind_and_a_run_that_resumes(tmp_path):
    check_stop(tmp_path, ACTOR_START, signal.SIGTERM, ("--run.placement", "in_process"))


def test_ctrl_c_in_a_step_completes_it_and_leaves_nothing_behind_and_a_run_that_resumes(tmp_path):
    run = check_stop(tmp_path, STEP, signal.SIGINT)
    assert run.rollbacks[0]["step"] >= 1


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize("phase", OTHERS)
def test_a_stop_at_any_other_phase_leaves_nothing_behind_and_a_run_that_resumes(tmp_path, phase):
    number = signal.SIGTERM if list(OTHERS).index(phase) % 2 == 0 else signal.SIGINT
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")} if OTHERS[phase].own_cache else {}
    check_stop(tmp_path, OTHERS[phase], number, **cache)


@pytest.mark.slow
def test_two_signals_stop_at_once_whatever_was_reached_by_then_and_the_run_resumes(tmp_path):
    mark = uuid4().hex
    running = start_job(tmp_path, *SHORT, "--rollout.max_staleness", "0", PYTHONUNBUFFERED="1", **{MARK: mark})
    try:
        read_until(running, "step    2/")
        running.send_signal(signal.SIGTERM)
        time.sleep(0.6)
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=STOP_S)
    finally:
        running.kill()
    # While Ray shuts down, its native code has taken the handler away: the second signal then ends the process itself.
    assert running.returncode in (STOPPED, -signal.SIGTERM)
    wait_until(lambda: not leftovers(mark), f"the end of {leftovers(mark)}", GONE_S)
    resumed = finished(tmp_path, resume_job(tmp_path))
    assert_every_prompt_exactly_once_and_in_order(resumed, STEPS, BATCH)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate", "prepare"])
def test_the_other_commands_stop_at_once_with_one_line_and_leave_nothing_behind(tmp_path, command):
    cache = ("--contexts.cache", str(tmp_path / "cache"))
    arguments = {
        "evaluate": ("base", "--out", str(tmp_path / "out"), "--rollout.engine.type", "transformers"),
        "prepare": ("--rollout.engine.type", "transformers", "--contexts.negative.type", "generated", *cache),
    }[command]
    mark, log = uuid4().hex, "rollout-0.log"
    running = subprocess.Popen(
        [sys.executable, "-m", f"unisd_rl.{command}", *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {MARK: mark},
    )
    try:
        wait_until(lambda: list(tmp_path.rglob(log)), log, 300.0)
        running.send_signal(signal.SIGTERM)
        errors = running.communicate(timeout=STOP_S)[1]
    finally:
        running.kill()
    assert (running.returncode, errors) == (STOPPED, "stopped\n")
    wait_until(lambda: not leftovers(mark), f"the end of {leftovers(mark)}", GONE_S)

"""A long run that is killed and resumed again and again trains on every rollout once, in the same order."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.finished import REPOSITORY, FinishedRun, read_until
from tests.fakes.long_run import ANSWERS, BATCH, EVERY, STALENESS, answer_to
from tests.fakes.service_parts import numbered
from unisd_rl.storage.rolling import closed_parts
from unisd_rl.transport.rollouts.ledger import Ledger

KILLS, END_S = 5, 120.0


def begun(folder: Path, steps: int) -> subprocess.Popen[str]:
    """A process that begins the run, or goes on with it."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.long_run", folder, str(steps)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_killed(folder: Path, steps: int, at_steps: list[int]) -> None:
    """To the end, and `kill -9` when each of these steps was taken."""
    folder.mkdir()
    for last in [*(f"step {step}\n" for step in at_steps), "done\n"]:
        process = begun(folder, steps)
        try:
            read_until(process, last)
        finally:
            process.kill()
            process.wait(timeout=END_S)


@pytest.mark.parametrize("rollouts", [10_240, pytest.param(102_400, marks=pytest.mark.slow)])
def test_the_rollouts_of_a_run_that_is_killed_five_times_are_consumed_once_in_the_same_order(tmp_path, rollouts):
    steps, draw = rollouts // BATCH, random.Random(rollouts)
    life = steps // (KILLS + 1)
    # A checkpoint is every `EVERY` steps: most of these are some steps after one, which are lost.
    at_steps = [number * life + draw.randrange(1, life) for number in range(1, KILLS + 1)]
    folder = tmp_path / "run"
    run_killed(folder, steps, at_steps)
    run = FinishedRun(folder, "")
    counted, expected = run.surviving, [numbered(number, answers=ANSWERS) for number in range(rollouts)]
    assert [row["prompt"] for row in counted] == [prompt.number for prompt in expected]
    assert [row["id"] for row in counted] == [prompt.prompt.id for prompt in expected]
    assert [row["step"] for row in counted] == [prompt.number // BATCH for prompt in expected]
    assert max(row["step"] - row["oldest"] for row in counted) <= STALENESS
    assert all(fall["step"] % EVERY == 0 for fall in run.rollbacks)
    assert all(fall["step"] >= step // EVERY * EVERY for fall, step in zip(run.rollbacks, at_steps, strict=True))
    assert sum(fall["steps_lost"] for fall in run.rollbacks) > 0
    ledger = Ledger(folder / "rollouts", fsync=False)
    assert list(ledger.numbers) == list(range(rollouts))
    for first in range(0, rollouts, 2048):
        for rollout, prompt in zip(ledger.rollouts(range(first, first + 2048)), expected[first:], strict=False):
            assert (rollout.number, rollout.seed, rollout.id) == (prompt.number, prompt.seed, prompt.prompt.id)
            assert rollout.completion_tokens.tolist() == answer_to(prompt.seed).tolist()
    assert len(closed_parts(folder / "consumed.jsonl")) >= rollouts // 10_240
    assert len(ledger.compacted) >= rollouts // 10_240

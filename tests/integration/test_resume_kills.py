"""`kill -9` of the driver at ten moments of one run, `--resume` at once each time.

In the reference mode the run equals one that nobody killed, bit for bit; with vLLM it trains on the same prompts, each
exactly once. Each prompt of these two runs has four answers, of the shorter ones below one. The moments are random
within phases that together are the whole life of a driver: its start, a step, the sending of weights, a checkpoint
being written, an evaluation, the end. `kills.json` beside the run says what happened.
"""

import json
import os
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tests.fakes.finished import (
    FinishedRun,
    assert_accuracy_is_what_its_items_say,
    assert_every_prompt_exactly_once_and_in_order,
    assert_groups_are_whole,
    assert_staleness_within,
    finished,
    process_of,
    read_until,
    resume_job,
    run_job,
    start_job,
)
from tests.fakes.lives import MARK, Kill, Life, Moment, Pace, moments
from tests.fakes.same_training import answers, files, gaps, rows, trained

STEPS, BATCH, EVERY = 24, 16, 6
SEED = 5
PHASES = (*["start"] * 3, "step", "publish", "checkpoint", "checkpoint", "evaluation", "end", "end")
SIZES = (
    "--learner.batch_size", str(BATCH), "--run.steps", str(STEPS), "--run.checkpoint_every", "3",
    "--evaluation.every", str(EVERY), "--task.train_examples", "100", "--task.eval_examples", "16",
)  # fmt: skip
REFERENCE = ("--rollout.engine.type", "transformers", "--rollout.max_staleness", "0", "--rollout.lease_unit", "8")
in_each_placement = pytest.mark.parametrize("placement", ["apart", "colocated"])


@dataclass(frozen=True)
class Killed:
    """A run that was killed again and again, at its end."""

    run: FinishedRun
    kills: tuple[Kill, ...]


def unharmed(folder: Path, *arguments: str) -> tuple[FinishedRun, Pace]:
    """A run that nobody kills, and how long its phases take."""
    life = Life(start_job(folder, *arguments), folder / "run", STEPS, mark="")
    run = FinishedRun(folder / "run", life.finish())
    wall_s = json.loads((run.path / "evaluations" / f"step-{EVERY}.json").read_text())["wall_s"]
    return run, life.pace(wall_s)


def killed(folder: Path, arguments: tuple[str, ...], when: list[Moment], pace: Pace) -> Killed:
    """The run at its end. The next driver starts at once, while processes of the one before may be there."""
    kills, left = list[Kill](), list[Future[float]]()
    life = begun(folder, arguments, 0)
    try:
        with ThreadPoolExecutor(len(when)) as pool:
            for number, moment in enumerate(when, start=1):
                kills.append(life.kill(moment, pace))
                left.append(pool.submit(life.left_s))
                life = begun(folder, arguments, number)
            run = FinishedRun(folder / "run", life.finish())
    finally:
        life.running.kill()  # a test that fails leaves nothing behind
    note(folder, pace, kills, [one.result() for one in left], life, run)
    return Killed(run, tuple(kills))


def begun(folder: Path, arguments: tuple[str, ...], number: int) -> Life:
    """`--resume`, or from the beginning where the driver was killed before there was a run."""
    mark, run = f"{folder}-{number}", folder / "run"
    there = (run / "config.toml").exists()
    running = resume_job(folder, **{MARK: mark}) if there else start_job(folder, *arguments, **{MARK: mark})
    return Life(running, run, STEPS, mark)


def note(folder: Path, pace: Pace, kills: list[Kill], left: list[float], last: Life, run: FinishedRun) -> None:
    """What happened, for whoever wants the figures."""
    found = {
        "pace": asdict(pace),
        "kills": [asdict(kill) | {"left_s": left_s} for kill, left_s in zip(kills, left, strict=True)],
        "last": {"first_step_s": last.seen_s("step "), "alive_s": last.age_s},
        "fall_backs": run.rollbacks,
    }
    (folder / "kills.json").write_text(json.dumps(found, indent=2) + "\n")


def assert_bit_for_bit(run: FinishedRun, expected: FinishedRun, steps: int = STEPS) -> None:
    """Losses, gradients and all else that is measured of each step; the ledger; weights, moments, teacher; answers."""
    assert trained(run.metrics, run.rollbacks) == trained(expected.metrics, [])
    assert len(trained(expected.metrics, [])) == steps
    assert_gaps_are_those_of_the_rows_compared(run, gaps(expected.metrics))
    assert rows(run.path, steps * BATCH).equals(rows(expected.path, steps * BATCH))
    assert files(run.checkpoint(steps)) == files(expected.checkpoint(steps))
    assert answers(run.path) == answers(expected.path)
    for name in ("before", "after"):
        assert run.summary[name]["accuracy"] == expected.summary[name]["accuracy"]
    for name in ("tokens", "consumed", "max_staleness_seen"):
        assert run.summary["queue"][name] == expected.summary["queue"][name]


def assert_gaps_are_those_of_the_rows_compared(run: FinishedRun, expected: dict[int, float]) -> None:
    """Rows that are fed again in a later lineage than they were generated in are not compared with the engine again."""
    found, again = gaps(run.metrics), {row["step"] for row in run.surviving if row["lineage"] < row["learner_lineage"]}
    assert found.keys() == expected.keys()
    assert {step: gap for step, gap in found.items() if step not in again} == {
        step: gap for step, gap in expected.items() if step not in again
    }
    assert all(found[step] is None or found[step] <= expected[step] for step in again)


def assert_the_chain_is_whole(run: FinishedRun, bound: int, steps: int = STEPS) -> None:
    assert run.summary["status"] == "completed"
    assert run.summary["lineage"] == len(run.rollbacks)
    assert_every_prompt_exactly_once_and_in_order(run, steps, BATCH)
    assert_staleness_within(run, bound)
    assert_versions_rise_by_one(run)
    assert_accuracy_is_what_its_items_say(run)


def assert_versions_rise_by_one(run: FinishedRun) -> None:
    """Within each lineage, from the step where it began."""
    began = {0: 0} | {fall["lineage"]: fall["step"] for fall in run.rollbacks}
    for lineage, first in began.items():
        steps = [row["step"] for row in run.metrics if row["lineage"] == lineage]
        assert steps == list(range(first, first + len(steps)))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@in_each_placement
def test_killed_at_ten_moments_the_reference_mode_equals_an_uninterrupted_run_bit_for_bit(tmp_path, placement):
    """Two groups of four answers in each unit."""
    settings = (*REFERENCE, *SIZES, "--rollout.answers_per_prompt", "4", "--run.placement", placement)
    expected, pace = unharmed(tmp_path / "unharmed", *settings)
    found = killed(tmp_path / "killed", settings, moments(SEED, PHASES), pace)
    assert len(found.kills) == 10
    assert_the_chain_is_whole(found.run, bound=0)
    assert_groups_are_whole(found.run, answers=4)
    assert_bit_for_bit(found.run, expected)


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.timeout(3600)
@in_each_placement
def test_killed_at_ten_moments_a_run_with_vllm_trains_on_each_prompt_exactly_once(tmp_path, placement):
    settings = (*SIZES, "--rollout.answers_per_prompt", "4", "--run.placement", placement)
    expected, pace = unharmed(tmp_path / "unharmed", *settings)
    found = killed(tmp_path / "killed", settings, moments(SEED, PHASES), pace)
    assert len(found.kills) == 10
    assert_the_chain_is_whole(found.run, bound=1)
    assert_groups_are_whole(found.run, answers=4)
    assert [row["id"] for row in found.run.surviving] == [row["id"] for row in expected.surviving]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@in_each_placement
def test_in_the_reference_mode_a_killed_learner_rank_changes_no_bit(tmp_path, placement):
    settings = (*REFERENCE, *SIZES, "--run.steps", "8", "--run.placement", placement)
    expected = run_job(tmp_path / "unharmed", *settings)
    running = start_job(tmp_path, *settings)
    seen = read_until(running, "step    5/8")
    os.kill(process_of(tmp_path / "run" / "logs" / "learner-0.log"), signal.SIGKILL)
    run = finished(tmp_path, running, seen)
    assert len(run.rollbacks) == 1
    assert_the_chain_is_whole(run, bound=0, steps=8)
    assert_bit_for_bit(run, expected, steps=8)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_in_the_reference_mode_two_ranks_taken_up_again_change_no_bit(tmp_path):
    arguments = (*REFERENCE, *SIZES, "--run.steps", "8", "--learner.ranks", "2", "--learner.zero_stage", "2")
    expected = run_job(tmp_path / "unharmed", *arguments)
    running = start_job(tmp_path, *arguments)
    read_until(running, "step    5/8")
    running.kill()
    running.wait(timeout=60)
    run = finished(tmp_path, resume_job(tmp_path))
    assert len(run.rollbacks) == 1
    assert_the_chain_is_whole(run, bound=0, steps=8)
    assert_bit_for_bit(run, expected, steps=8)

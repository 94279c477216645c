"""Generation and learning in turns on the same cores (`run.placement` colocated), on real Ray and DeepSpeed.

Engine starts of this file: one of vLLM, in the slow tier; the other run generates with transformers.
"""

import pytest

from tests.fakes.finished import (
    FinishedRun,
    assert_every_prompt_exactly_once_and_in_order,
    assert_staleness_within,
    finished,
    read_until,
    resume_job,
    run_job,
    start_job,
)
from unisd_rl.cluster.cores import available_cores
from unisd_rl.transport.rollouts.ledger import Ledger

STEPS, BATCH = 8, 16
IN_TURNS = (
    "--run.placement", "colocated", "--run.steps", str(STEPS), "--learner.batch_size", str(BATCH),
    "--rollout.concurrency", "24", "--task.eval_examples", "16", "--run.checkpoint_every", "3",
)  # fmt: skip


def assert_the_sides_took_turns(run: FinishedRun) -> None:
    """Whatever was begun was completed before the learner's turn, so no answer has tokens of two versions; and each
    side had all cores."""
    everywhere = ",".join(map(str, available_cores()))
    assert f"rollout 0: cores {everywhere} | learner 0: cores {everywhere}" in run.output
    assert run.summary["queue"]["straddling"] == 0
    assert "generation and learning took turns: generating " in run.output
    bottleneck = run.summary["bottleneck"]
    assert (bottleneck["actors_suggested"], bottleneck["colocated_gain"]) == (1, None)


def assert_nothing_was_generated_while_the_learner_computed(run: FinishedRun, steps: int) -> None:
    """The learner's turn of step k begins when the batch is there, and lasts as long as its line says it computed: no
    rollout of a later batch was begun in it, whose weights it was to make."""
    table = Ledger(run.path / "rollouts", fsync=False).read(range(steps * BATCH))
    began, ended = (table.column(name).to_pylist() for name in ("started_s", "finished_s"))
    learn_s = {row["step"]: row["learn_s"] for row in run.metrics}
    for step in range(steps - 1):
        last_of_this = max(ended[step * BATCH : (step + 1) * BATCH])
        first_of_next = min(began[(step + 1) * BATCH : (step + 2) * BATCH])
        assert first_of_next >= last_of_this + learn_s[step], step


def test_each_side_has_all_cores_in_its_turn_and_every_prompt_is_trained_on_once(tmp_path):
    """No vLLM engine is started."""
    fresh = ("--rollout.engine.type", "transformers", "--rollout.max_staleness", "0")
    run = run_job(tmp_path, *IN_TURNS, *fresh, "--run.steps", "4")
    assert_every_prompt_exactly_once_and_in_order(run, 4, BATCH)
    assert_staleness_within(run, bound=0)
    assert_the_sides_took_turns(run)
    assert_nothing_was_generated_while_the_learner_computed(run, 4)


@pytest.mark.slow
def test_a_killed_run_in_turns_is_resumed_and_trains_on_every_prompt_once(tmp_path):
    """Rollouts may run a step ahead of the learner, and do so in their own turns only. No vLLM engine is started."""
    options = (*IN_TURNS, "--rollout.engine.type", "transformers", "--rollout.max_staleness", "1")
    running = start_job(tmp_path, *options)
    read_until(running, f"step    5/{STEPS}")
    running.kill()
    running.wait(timeout=60)
    run = finished(tmp_path, resume_job(tmp_path))
    assert_every_prompt_exactly_once_and_in_order(run, STEPS, BATCH)
    assert_staleness_within(run, bound=1)
    assert run.summary["lineage"] == 1
    assert run.rollbacks[0]["step"] == 3
    assert_the_sides_took_turns(run)


@pytest.mark.slow
@pytest.mark.engine
def test_vllm_and_the_learner_take_turns_and_every_token_is_of_the_version_that_it_trains(tmp_path):
    run = run_job(tmp_path, *IN_TURNS, "--rollout.max_staleness", "0")
    assert_every_prompt_exactly_once_and_in_order(run, STEPS, BATCH)
    assert_staleness_within(run, bound=0)
    assert_the_sides_took_turns(run)
    assert_nothing_was_generated_while_the_learner_computed(run, STEPS)

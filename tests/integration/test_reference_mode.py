"""With fixed groups, staleness 0, the CPU and float32, who generates and when changes no bit of what is trained."""

import pytest

from tests.fakes.finished import FinishedRun, assert_every_prompt_exactly_once_and_in_order, run_job
from unisd_rl.transport.rollouts.ledger import Ledger

STEPS, BATCH, UNIT = 4, 16, 8
REFERENCE = (
    "--rollout.engine.type", "transformers", "--rollout.max_staleness", "0", "--rollout.lease_unit", str(UNIT),
    "--learner.batch_size", str(BATCH), "--run.steps", str(STEPS),
    "--task.train_examples", "100", "--task.eval_examples", "8",
)  # fmt: skip


def rollouts(run: FinishedRun):
    ledger = Ledger(run.path / "rollouts", fsync=False)
    return [
        (row.number, row.seed, row.completion_tokens.tobytes(), row.logprobs.tobytes(), row.versions.tobytes())
        for row in ledger.rollouts(range(STEPS * BATCH))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("answers", [1, 4])
def test_one_actor_and_two_make_the_same_rollouts_and_losses_bit_for_bit(tmp_path, answers):
    settings = (*REFERENCE, "--rollout.answers_per_prompt", str(answers))
    one = run_job(tmp_path / "one", *settings)
    two = run_job(tmp_path / "two", *settings, "--rollout.actors", "2", "--rollout.concurrency", str(UNIT))
    assert len({row["actor"] for row in two.consumed}) == 2
    for run in (one, two):
        assert_every_prompt_exactly_once_and_in_order(run, STEPS, BATCH)
    assert rollouts(one) == rollouts(two)
    assert [(row["loss"], row["grad_norm"]) for row in one.metrics] == [
        (row["loss"], row["grad_norm"]) for row in two.metrics
    ]

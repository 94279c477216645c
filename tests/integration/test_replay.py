"""A run's training again from its ledger, as a person types it; two learner ranks, two actors, the transformers engine.

Each prompt has four answers, which are dealt to one rank. Actors and learner compute at the same time; in the slow tier
one actor and the learner take turns too.
"""

import json
import tomllib

import pytest

from tests.fakes.finished import (
    TIMEOUT_S,
    FinishedRun,
    assert_accuracy_is_what_its_items_say,
    assert_every_prompt_exactly_once_and_in_order,
    assert_groups_are_whole,
    assert_staleness_within,
    run_job,
)
from tests.fakes.job import Job

STEPS, BATCH, ANSWERS = 4, 16, 4
TINY = (
    "--learner.batch_size", str(BATCH), "--rollout.engine.type", "transformers", "--task.train_examples", "100",
    "--task.eval_examples", "8", "--run.steps", str(STEPS), "--rollout.answers_per_prompt", str(ANSWERS),
)  # fmt: skip
TWO_RANKS = ("--learner.ranks", "2", "--learner.zero_stage", "3")
PLACES = {"apart": ("--rollout.actors", "2"), "colocated": ("--run.placement", "colocated")}


@pytest.fixture(scope="module", params=["apart", pytest.param("colocated", marks=pytest.mark.slow)])
def run(request, tmp_path_factory):
    return run_job(tmp_path_factory.mktemp("recorded"), *TINY, *TWO_RANKS, *PLACES[request.param])


def test_the_run_has_whole_groups_each_prompt_once_and_in_order_and_as_many_actors_as_it_asked_for(run):
    assert_groups_are_whole(run, ANSWERS)
    assert_every_prompt_exactly_once_and_in_order(run, STEPS, BATCH)
    assert_staleness_within(run, bound=1)
    assert_accuracy_is_what_its_items_say(run)
    actors = tomllib.loads((run.path / "config.toml").read_text())["rollout"]["actors"]
    assert len({row["actor"] for row in run.consumed}) == actors


def replayed(run, *arguments):
    """The command's exit code, and what it left behind."""
    job = Job("unisd_rl.replay", run.path, *arguments)
    output, _ = job.communicate(TIMEOUT_S)
    return job.returncode, FinishedRun(run.path.with_name(f"{run.path.name}-replay"), output)


def test_a_replay_has_every_number_and_every_weight_of_its_run_bit_for_bit(run):
    code, replay = replayed(run, "--check")
    assert code == 0, replay.output
    assert f"all {STEPS} losses compared equal" in replay.output
    for again, once in zip(replay.metrics, run.metrics, strict=True):
        same = [name for name in once if name in again and not name.endswith("_s")]
        assert {"loss", "grad_norm", "teacher_student_distance", "tokens", "staleness_max"} <= set(same)
        assert {name: again[name] for name in same} == {name: once[name] for name in same}
    files = [folder / "model.safetensors" for folder in (run.checkpoint(STEPS), replay.checkpoint(STEPS))]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert replay.summary["compared"] == {"steps": STEPS, "first": None}
    assert replay.summary["rollouts"] == STEPS * BATCH
    assert not (replay.path / "rollouts").exists()


@pytest.mark.slow
def test_another_objective_on_the_same_rollouts_is_not_compared(run):
    code, replay = replayed(run, "--objective.contrastive", "null", "--learner.learning_rate", "3e-3")
    assert code == 0, replay.output
    assert "losses are not compared" in replay.output
    assert replay.summary["compared"] is None
    assert {"learner.learning_rate", "objective.contrastive.weight"} <= set(replay.summary["changed"])
    assert replay.metrics[0]["loss"] < run.metrics[0]["loss"]  # the contrastive part is gone


def test_a_loss_that_differs_and_a_ledger_that_ends_early_are_told(tmp_path):
    """Of a run in one process, which is replayed in one."""
    cut = run_job(tmp_path, "unisd_star", "in_process", *TINY)
    lines = cut.metrics
    loss = lines[1]["loss"]
    lines[1]["loss"] += 1e-9
    (cut.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (index,) = (cut.path / "rollouts" / "index").iterdir()
    commits = index.read_text().splitlines()
    index.write_text("".join(f"{line}\n" for line in commits if max(json.loads(line)["numbers"]) < 3 * BATCH))
    code, replay = replayed(cut, "--check")
    assert code == 1
    whole = replay.summary["steps"]
    assert 2 <= whole < STEPS
    assert f"the ledger ends early: {whole} of {STEPS} steps are whole" in replay.output
    assert f"failed: step 1 is the first of {whole} whose loss is not that of {cut.path}" in replay.output
    assert replay.summary["compared"]["first"] == {
        "step": 1, "run": lines[1]["loss"], "replay": loss,
    }  # fmt: skip

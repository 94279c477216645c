"""A tracker that lost some is told what counts, and no more."""

from tests.fakes.run_folder import answer, run_folder, step
from unisd_rl.tracking.recorded import recorded_numbers


def test_steps_and_evaluations_up_to_a_version_that_a_rollback_left(tmp_path):
    steps = [step(0), step(1), step(2, loss=9.0), step(3, loss=8.0), step(2, 1, loss=5.0), step(3, 1)]
    evaluations = {2: [answer("1+1", True)], 4: [answer("1+1", False)]}
    rollbacks = [{"lineage": 1, "step": 2, "steps_lost": 2}]
    run = run_folder(tmp_path / "run", steps, rollbacks=rollbacks, evaluations=evaluations)
    told = list(recorded_numbers(run, 3))
    assert [(version, numbers["loss/loss"]) for version, numbers in told if "loss/loss" in numbers] == [
        (1, 1.0), (2, 0.5), (3, 5.0),
    ]  # fmt: skip
    (evaluation,) = [(version, numbers) for version, numbers in told if "evaluation/accuracy" in numbers]
    assert (evaluation[0], evaluation[1]["evaluation/accuracy"]) == (2, 1.0)
    assert evaluation[1]["evaluation/interval/high"] == 1.0


def test_a_folder_without_steps_says_nothing(tmp_path):
    assert list(recorded_numbers(run_folder(tmp_path / "run"), 0)) == []

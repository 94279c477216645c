"""A tracker that lost some is told what counts, and no more."""

from tests.fakes.run_folder import answer, run_folder, step
from unisd_rl.tracking.recorded import ToldAgain, recorded_numbers
from unisd_rl.tracking.tracker import Tracker


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


class Kept(Tracker):
    """What a library has written of what it was told."""

    def __init__(self):
        self.versions = []

    def begin(self, version, information):
        self.versions.append(("begin", version))

    def numbers(self, version, numbers):
        self.versions.append(version)

    def close(self, failed):
        pass


def told_again(folder, kept, version, close=False):
    """What the library is told when the run begins or goes on after `version`."""
    tracker = ToldAgain(folder, "kept", lambda: kept)
    tracker.begin(version, None)
    if close:
        tracker.close(False)
    told, kept.versions = kept.versions, []
    return told


def test_a_tracker_is_told_again_what_a_killed_process_was_told_and_not_what_was_closed(tmp_path):
    folder, kept = run_folder(tmp_path / "run", [step(0), step(1), step(2)]), Kept()
    assert told_again(folder, kept, 0) == [("begin", 0)], "a run that begins has told nothing"
    assert told_again(folder, kept, 2) == [("begin", 2), 1, 2], "killed before anything was written, or after"
    assert told_again(folder, kept, 3, close=True) == [("begin", 3), 1, 2, 3]
    assert told_again(folder, kept, 3) == [("begin", 3)]
    assert told_again(folder, kept, 3) == [("begin", 3), 1, 2, 3], "the process after that was killed"

"""`unisd-rl ablate`: what is missing of a grid is made once, whatever ended the command before."""

import json
import shutil

import pytest
import tomli_w

from tests.unit.ablation.test_grid import SMALL
from unisd_rl import ablate, base_model
from unisd_rl.ablation import job
from unisd_rl.ablation.results import Cost, read_results
from unisd_rl.storage.files import FolderLock


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A grid of one row and two seeds, and runs that are made by hand."""
    monkeypatch.chdir(tmp_path)
    write(seeds=[0, 1])
    monkeypatch.setattr(job, "Runner", ByHand)
    monkeypatch.setattr(base_model, "ensure_base_model", lambda recipe, report: ByHand.bases.append(recipe.seed))
    ByHand.made, ByHand.bases, ByHand.failing = [], [], ()
    return tmp_path


def write(**changes):
    rows = {"sdft": {"recipe": "sdft"}}
    with open("grid.toml", "wb") as file:
        tomli_w.dump({**SMALL, "wrong_demonstrations": [0.0], "rows": rows, **changes}, file)


class ByHand:
    """A `Runner` whose runs are folders with two evaluations."""

    made: list
    bases: list
    failing: tuple

    def __init__(self, limit_minutes, jobs, finished, failed):
        self.finished, self.failed = finished, failed

    def make(self, runs):
        for run in runs:
            if run.cell.seed in self.failing:
                self.failed(run, "exit code 1")
                continue
            ByHand.made.append(run.cell.name)
            (run.run / "evaluations").mkdir(parents=True, exist_ok=True)
            (run.run / "config.toml").touch()
            (run.run / "summary.json").write_text('{"queue": {"tokens": 5}}')
            for step, correct in ((0, False), (4, True)):
                numbers = {"version": step, "lineage": 0, "accuracy": float(correct)}
                (run.run / f"evaluations/step-{step}.json").write_text(json.dumps(numbers))
                answers = [json.dumps({"id": name, "correct": correct}) for name in "ab"]
                (run.run / f"evaluations/step-{step}.jsonl").write_text("\n".join(answers) + "\n")
            if run.checkpoints:
                evaluated_later(run)
            self.finished(run, Cost(1.0, 0.5, 2.0))


def evaluated_later(run):
    """Its checkpoints are evaluated; a replay has no evaluation of its own."""
    if run.recording is not None:
        shutil.rmtree(run.run / "evaluations")
    (run.later / "answers").mkdir(parents=True)
    for place, _ in enumerate(run.checkpoints):
        answers = [json.dumps({"id": name, "correct": True}) for name in "ab"]
        (run.later / f"answers/model-{place}-arithmetic.jsonl").write_text("\n".join(answers) + "\n")
    (run.later / "results.json").write_text(json.dumps({"results": [{"accuracy": 1.0} for _ in run.checkpoints]}))


REPLAYED = {
    "sdft": {"recipe": "sdft"},
    "recording": {"recipe": "unisd_star", "evaluates_checkpoints": True},
    "replayed": {"recipe": "sdft", "replays": "recording", "on_policy": "sdft"},
}


def test_a_row_that_replays_has_its_recording_made_first_wherever_that_is_missing(folder):
    write(seeds=[0], rows=REPLAYED, fields={"run": {"steps": 4}, "evaluation": {"every": 2}})
    assert ablate.main(["grid.toml", "--only", "replayed"]) == 0
    assert ByHand.made == ["recording-arithmetic-0-0", "replayed-arithmetic-0-0"]
    rows = {result.row: result for result in read_results(folder / "grid.parquet")}
    assert (rows["replayed"].steps, rows["replayed"].accuracies) == ([2, 4], [1.0, 1.0])
    assert rows["replayed"].base_accuracy == rows["recording"].base_accuracy == 0.0, "they began with one model"
    assert rows["replayed"].settings.endswith(rows["recording"].settings)
    assert ablate.main(["grid.toml", "--only", "replayed"]) == 0
    assert len(ByHand.made) == 2
    shutil.rmtree(folder / "runs")
    write(seeds=[0], rows={**REPLAYED, "more": REPLAYED["replayed"]}, fields={
        "run": {"steps": 4}, "evaluation": {"every": 2}
    })  # fmt: skip
    assert ablate.main(["grid.toml", "--only", "more"]) == 0
    assert ByHand.made[2:] == ["recording-arithmetic-0-0", "more-arithmetic-0-0"], "on another machine"


def test_each_finished_run_is_a_row_and_a_grid_goes_on_from_those_that_are_there(folder, capsys):
    ByHand.failing = (1,)
    assert ablate.main(["grid.toml"]) == 1, "a run failed"
    assert ByHand.made == ["sdft-arithmetic-0-0"]
    assert ByHand.bases == [0, 1], "once for each seed, before any run"
    ByHand.failing = ()
    assert ablate.main(["grid.toml"]) == 0
    assert ByHand.made == ["sdft-arithmetic-0-0", "sdft-arithmetic-0-1"]
    assert [result.seed for result in read_results(folder / "grid.parquet")] == [0, 1]
    assert ablate.main(["grid.toml"]) == 0
    assert len(ByHand.made) == 2
    said = capsys.readouterr()
    assert "sdft-arithmetic-0-1 failed: exit code 1" in said.err
    assert said.out.splitlines()[-2:] == ["grid.md", "grid.html"]
    assert "2 of 2 runs." in (folder / "grid.md").read_text()


def test_rows_of_other_settings_are_made_again_and_said(folder, capsys):
    ablate.main(["grid.toml"])
    write(seeds=[0, 1], fields={"run": {"steps": 5}})
    assert ablate.main(["grid.toml"]) == 0
    assert len(ByHand.made) == 4
    assert "2 rows of grid.parquet are of other settings, and are made again" in capsys.readouterr().err
    assert len(read_results(folder / "grid.parquet")) == 2


def test_a_dry_run_lists_what_is_missing_and_makes_nothing(folder, capsys):
    assert ablate.main(["grid.toml", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "grid small: 2 runs, 0 of them in grid.parquet",
        "  sdft-arithmetic-0-0: 4 steps of 64 prompts",
        "  sdft-arithmetic-0-1: 4 steps of 64 prompts",
    ]
    assert ByHand.made == []


def test_a_stopped_grid_says_how_it_goes_on(folder, monkeypatch, capsys):
    def interrupted(self, runs):
        raise KeyboardInterrupt

    monkeypatch.setattr(ByHand, "make", interrupted)
    assert ablate.main(["grid.toml"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "stopped; go on with: unisd-rl ablate grid.toml"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.toml"], "error: grid nowhere.toml cannot be read: No such file or directory"),
        (["grid.toml", "--only", "gkd"], "error: --only gkd: no row of grid.toml; rows are: sdft"),
        (["grid.toml", "--jobs", "0"], "error: --jobs 0: at least 1 run at a time"),
        (["grid.toml", "--report"], "error: grid.parquet has no finished run of this grid"),
    ],
)
def test_what_is_wrong_is_one_sentence(arguments, said, folder, capsys):
    assert ablate.main(arguments) == 2
    assert capsys.readouterr().err.startswith(said)


def test_one_grid_is_made_by_one_command_at_a_time(folder, capsys):
    (folder / "runs/small").mkdir(parents=True)
    other = FolderLock(folder / "runs/small", "grid.lock")
    assert other.acquire()
    assert ablate.main(["grid.toml"]) == 2
    assert "another unisd-rl ablate makes its runs in" in capsys.readouterr().err
    other.close()

"""What a run leaves behind is never overwritten and never torn."""

import json
import math
import tomllib
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest

from actors.scale_requests import ScaleRequests
from tests.fakes.full_disk import files_of_at_most
from unisd_rl.config import Config
from unisd_rl.config.load import load_recipe
from unisd_rl.driver.run_dir import RunDirectory
from unisd_rl.errors import RunFailed, UserError
from unisd_rl.evaluation.statistics import EvaluationSummary, Interval
from unisd_rl.storage.files import WriteError
from unisd_rl.types import Answer, Failure, Generation

CONFIG = load_recipe("unisd_star")


def created(path):
    directory = RunDirectory(path)
    directory.create(CONFIG)
    return directory


def answer(sample):
    tokens = np.arange(4, dtype=np.int32)
    generation = Generation(tokens, np.zeros(4, np.float32), tokens, tokens, "stop")
    return Answer("a", sample, tokens, "Answer: 3", generation, "3", sample == 0)


def test_the_resolved_configuration_is_a_recipe(tmp_path):
    directory = created(tmp_path / "run")
    assert Config.model_validate(tomllib.loads(directory.config.read_text())) == CONFIG


def test_an_earlier_run_of_the_same_name_is_moved_aside(tmp_path):
    for loss in (1.0, 2.0, 3.0):
        directory = created(tmp_path / "run")
        directory.log_step({"step": 0, "loss": loss})
        directory.close()
    losses = [json.loads((tmp_path / name / "metrics.jsonl").read_text())["loss"] for name in ("run.1", "run.2", "run")]
    assert losses == [1.0, 2.0, 3.0]


def test_moving_an_earlier_run_aside_is_said(tmp_path):
    assert created(tmp_path / "run").notice == ""
    directory = created(tmp_path / "run")
    directory.log_step({"step": 0})
    directory.close()
    assert created(tmp_path / "run").notice == f"the earlier run {tmp_path}/run is moved aside to run.1"


def test_a_run_that_failed_at_its_start_is_replaced_and_not_kept_under_another_name(tmp_path):
    directory = RunDirectory(tmp_path / "run")

    def fail():
        directory.record(Failure("rollout-0", "no engine", 0, 0.0))
        (directory.logs / "rollout-0.log").write_text("why")
        for copied in ("base_model", "text_decoder-1a2b3c4d", "text_decoder-5e6f7a8b.partial"):
            (directory.path / copied).mkdir()
            (directory.path / copied / "model.safetensors").write_text("a copy of what is elsewhere")
        (directory.path / "rollouts" / "index").mkdir(parents=True)
        (directory.path / "consumed.jsonl").touch()
        raise RunFailed("no engine")

    with pytest.raises(RunFailed), directory.claimed(CONFIG):
        fail()
    assert (directory.path / "logs" / "rollout-0.log").exists()  # until there is another run
    again = created(tmp_path / "run")
    assert "took no step: it is replaced" in again.notice
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    assert not (again.path / "logs" / "rollout-0.log").exists()


WORTH_KEEPING = (
    "metrics.jsonl",
    "evaluations/step-0.json",
    "rollouts/index/00000001.jsonl",
    "checkpoints/step-1/x",
    "notes.txt",
)


@pytest.mark.parametrize("name", WORTH_KEEPING)
def test_what_a_run_or_a_person_left_is_never_removed(tmp_path, name):
    directory = created(tmp_path / "run")
    kept = directory.path / name
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text("{}\n")
    directory.close()
    created(tmp_path / "run")
    assert (tmp_path / "run.1" / name).read_text() == "{}\n"


FOREIGN = {
    "other_files": {"thesis.tex": "", "metrics.jsonl": "{}"},
    "another_programs_lock": {"lock": "", "config.toml": "[tool]\n", "checkpoints/step-7/model.safetensors": ""},
    "a_configuration_alone": {"config.toml": "[run]\n[objective]\n"},
}


@pytest.mark.parametrize("files", FOREIGN.values(), ids=FOREIGN)
def test_a_folder_that_is_no_runs_is_refused_and_left_as_it_is(tmp_path, files):
    for name, text in files.items():
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text(text)
    with pytest.raises(UserError, match=r"is not the folder of a run .*another run\.name"):
        created(tmp_path / "run")
    found = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert found == files.keys()
    assert all((tmp_path / "run" / name).read_text() == text for name, text in files.items())


def test_an_empty_folder_may_become_a_runs(tmp_path):
    (tmp_path / "run").mkdir()
    assert created(tmp_path / "run").config.is_file()


def test_a_stop_is_an_event_of_its_own_and_known_when_the_run_is_resumed(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt), directory.claimed(CONFIG):
        raise KeyboardInterrupt
    (event,) = [json.loads(line) for line in (directory.path / "events.jsonl").read_text().splitlines()]
    assert (event["event"], event["component"]) == ("stop", "driver")
    seen = []
    for end in (RunFailed("a rank died"), KeyboardInterrupt(), RunFailed("another died")):
        again = RunDirectory(tmp_path / "run")
        with pytest.raises(type(end)), again.claimed(CONFIG, resumed=True):
            raise end
        seen.append(again.stopped_before)
    assert seen == [True, False, True]


def test_two_runs_cannot_write_to_one_folder(tmp_path):
    first = created(tmp_path / "run")
    with pytest.raises(UserError, match=r"another run is writing.*run\.name"):
        created(tmp_path / "run")
    first.close()


@pytest.mark.parametrize(
    ("error", "summary"),
    [
        (RunFailed("a rank died"), {"status": "failed", "error": "a rank died"}),
        (UserError("no such data"), {"status": "failed", "error": "no such data"}),
        (KeyboardInterrupt(), {"status": "interrupted"}),
    ],
    ids=["failed", "refused", "interrupted"],
)
def test_what_ends_a_run_is_in_its_summary_and_frees_its_folder(tmp_path, error, summary):
    directory = RunDirectory(tmp_path / "run")
    with pytest.raises(type(error)), directory.claimed(CONFIG):
        raise error
    assert json.loads(directory.summary.read_text()) == summary
    with directory.claimed(CONFIG, resumed=True):
        assert not directory.summary.exists()


def test_a_disk_that_takes_no_summary_hides_no_failure(tmp_path, monkeypatch):
    def refuse(self, summary):
        raise WriteError("full")

    monkeypatch.setattr(RunDirectory, "write_summary", refuse)
    with pytest.raises(RunFailed, match="a rank died"), RunDirectory(tmp_path / "run").claimed(CONFIG):
        raise RunFailed("a rank died")


def test_numbers_that_do_not_exist_are_null(tmp_path):
    directory = created(tmp_path / "run")
    directory.log_step({"step": 0, "gap": float("nan"), "loss": 0.5})
    assert json.loads((directory.path / "metrics.jsonl").read_text()) == {"step": 0, "gap": None, "loss": 0.5}


def test_every_answer_and_the_numbers_of_an_evaluation_are_kept(tmp_path):
    directory = created(tmp_path / "run")
    path = directory.write_evaluation(7, [answer(0), answer(1)], {"retention": {"jsd": math.nan}})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["sample"], row["correct"], row["tokens"]) for row in rows] == [(0, True, 4), (1, False, 4)]
    assert json.loads(path.with_suffix(".json").read_text()) == {"retention": {"jsd": None}}


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"run\.dir"):
        created(tmp_path / "file" / "run")


def test_a_reopened_run_appends_and_has_not_ended(tmp_path):
    first = created(tmp_path / "run")
    first.log_step({"step": 0, "lineage": 0})
    first.write_summary({"status": "interrupted"})
    first.close()
    again = RunDirectory(tmp_path / "run")
    again.reopen(CONFIG)
    again.log_step({"step": 0, "lineage": 1})
    rows = [json.loads(line) for line in (again.path / "metrics.jsonl").read_text().splitlines()]
    assert [row["lineage"] for row in rows] == [0, 1]
    assert not again.summary.exists()
    with pytest.raises(UserError, match="another run is writing"):
        RunDirectory(tmp_path / "run").reopen(CONFIG)


def test_an_evaluation_counts_while_its_version_survives(tmp_path):
    directory = created(tmp_path / "run")
    found = EvaluationSummary(
        lineage=0,
        version=6,
        problems=4,
        samples=1,
        cut=1,
        accuracy=0.5,
        interval=Interval(0.1, 0.9),
        retention=None,
    )
    directory.write_evaluation(6, [], {**asdict(found), "wall_s": 1.0})
    assert directory.evaluation_summary(5) is None
    (directory.path / "lineages.jsonl").write_text('{"lineage": 1, "step": 6, "steps_lost": 1}\n')
    assert directory.evaluation_summary(6) == found
    (directory.path / "lineages.jsonl").write_text('{"lineage": 1, "step": 4, "steps_lost": 3}\n')
    assert directory.evaluation_summary(6) is None


def test_an_evaluation_the_disk_does_not_take_leaves_nothing_and_may_be_written_again(tmp_path):
    directory = created(tmp_path / "run")
    with files_of_at_most(8), pytest.raises(WriteError, match=r"step-6\.jsonl cannot be written: File too large"):
        directory.write_evaluation(6, [answer(0), answer(1)], {})
    with (
        files_of_at_most(8),
        pytest.raises(WriteError, match=r"parquet cannot be written: .*too large"),
    ):
        directory.write_retention(6, pa.table({"a": range(10)}))
    assert list((directory.path / "evaluations").iterdir()) == []
    assert directory.write_evaluation(6, [answer(0), answer(1)], {}).read_text().count("\n") == 2


def test_a_summary_the_disk_does_not_take_is_one_sentence(tmp_path):
    directory = created(tmp_path / "run")
    directory.summary.mkdir()  # nothing can be renamed to it
    with pytest.raises(WriteError, match=r"summary\.json cannot be written: .*--resume"):
        directory.write_summary({"status": "completed"})


@pytest.mark.parametrize(("actors", "said"), [(1, 4), (2, None)])
def test_a_number_of_actors_said_in_mid_run_holds_until_another_is_given(tmp_path, actors, said):
    directory = created(tmp_path / "run")
    ScaleRequests(directory.path).request_actors(4)
    directory.close()
    again = RunDirectory(directory.path)
    again.reopen(CONFIG.model_copy(update={"rollout": CONFIG.rollout.model_copy(update={"actors": actors})}))
    assert ScaleRequests(directory.path).requested_actors() == said

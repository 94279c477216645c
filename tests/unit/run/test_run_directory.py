"""What a run leaves behind is never overwritten and never torn."""

import json
import tomllib

import pytest

from unisd_rl.config import Config
from unisd_rl.errors import UserError
from unisd_rl.run_directory import RunDirectory
from unisd_rl.settings import load_recipe
from unisd_rl.types import Answer

CONFIG = load_recipe("unisd_star")


def created(path):
    directory = RunDirectory(path)
    directory.create(CONFIG)
    return directory


def test_the_resolved_configuration_is_a_recipe(tmp_path):
    directory = created(tmp_path / "run")
    assert Config.model_validate(tomllib.loads(directory.config.read_text())) == CONFIG


def test_an_earlier_run_of_the_same_name_is_moved_aside(tmp_path):
    for loss in (1.0, 2.0, 3.0):
        directory = created(tmp_path / "run")
        directory.log_step({"loss": loss})
        directory.close()
    losses = [json.loads((tmp_path / name / "metrics.jsonl").read_text())["loss"] for name in ("run.1", "run.2", "run")]
    assert losses == [1.0, 2.0, 3.0]


def test_two_runs_cannot_write_to_one_folder(tmp_path):
    first = created(tmp_path / "run")
    with pytest.raises(UserError, match=r"another run is writing.*run\.name"):
        created(tmp_path / "run")
    first.close()


def test_numbers_that_do_not_exist_are_null(tmp_path):
    directory = created(tmp_path / "run")
    directory.log_step({"gap": float("nan"), "loss": 0.5})
    assert json.loads((directory.path / "metrics.jsonl").read_text()) == {"gap": None, "loss": 0.5}


def test_every_item_of_an_evaluation_is_kept(tmp_path):
    directory = created(tmp_path / "run")
    answers = [Answer("a", "Answer: 3", 4, "3", True), Answer("b", "?", 1, "4", False)]
    lines = directory.write_evaluation(7, answers).read_text().splitlines()
    assert [json.loads(line)["correct"] for line in lines] == [True, False]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"run\.dir"):
        created(tmp_path / "file" / "run")

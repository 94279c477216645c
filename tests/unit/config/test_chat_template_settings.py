"""The chat template's arguments and clock are part of what a run trains on: recorded, and the same when it resumes."""

from argparse import Namespace
from datetime import datetime

import pytest

from unisd_rl.cli import parse_fields
from unisd_rl.config.load import load_recipe
from unisd_rl.driver.run_dir import RunDirectory
from unisd_rl.errors import UserError
from unisd_rl.evaluation.request import evaluation_request
from unisd_rl.storage.recorded_run import changed_settings, resumed_config

DAY = datetime(2024, 2, 29, 12, 30, 15, 123456)
LATER = datetime(2025, 1, 1)
TEMPLATE = {"student": {"enable_thinking": False, "depth": 3}, "teacher": {}}
CONFIG = load_recipe("unisd_star", {"run": {"steps": 7}, "model": {"chat_template": TEMPLATE}})


@pytest.fixture
def ended(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.create(CONFIG.with_clock_stopped(DAY))
    directory.close()
    return directory.path


def test_the_clock_stands_at_the_start_of_the_run_and_is_not_set_again(ended):
    for config in (resumed_config(ended, {}), load_recipe(str(ended / "config.toml"))):
        assert config.with_clock_stopped(LATER).model.chat_template.time == datetime(2024, 2, 29, 12, 30, 15)
    assert CONFIG.with_clock_stopped(LATER).model.chat_template.time == LATER


def test_arguments_are_recorded_as_they_were_given(ended):
    template = resumed_config(ended, {}).model.chat_template
    assert (template.student, template.teacher) == ({"enable_thinking": False, "depth": 3}, {})
    assert template.student["enable_thinking"] is False


@pytest.mark.parametrize(
    "other",
    [
        {"student": {"enable_thinking": True}},
        {"teacher": {"enable_thinking": True}},
        {"time": "2025-01-01"},
    ],
    ids=str,
)
def test_a_run_is_not_resumed_under_another_template(ended, other):
    with pytest.raises(UserError, match=r"model\.chat_template\.\w+ = .* it says what is trained"):
        resumed_config(ended, {"model": {"chat_template": other}})


def test_a_replay_reads_recorded_tokens_whatever_the_template_but_not_whatever_is_masked():
    plain, masked = load_recipe("unisd_star"), {"learner": {"mask_truncated_completions": True}}
    assert changed_settings(plain, CONFIG.with_clock_stopped(DAY).model_copy(update={"run": plain.run})) == ()
    assert changed_settings(plain, load_recipe("unisd_star", masked)) == ("learner.mask_truncated_completions",)


@pytest.mark.parametrize("said", ['{"enable_thinking": false}', "enable_thinking=false"])
def test_false_on_the_command_line_is_false(said):
    fields = parse_fields(["--model.chat_template.student", said], "python -m unisd_rl.run")
    assert load_recipe("unisd_star", fields).model.chat_template.student == {"enable_thinking": False}


def test_models_that_are_compared_read_the_same_clock():
    options = {"task": [], "recipe": None, "samples": None, "k": None, "temperature": None, "retention": None}
    request = evaluation_request(["base", "some/model"], Namespace(**options, out=None), [], "evaluate")
    times = {target.config.model.chat_template.time for target in request.targets}
    assert len(request.targets) == 2
    assert len(times) == 1
    assert None not in times

"""A run's length is given in steps or in epochs; whatever follows from it reads the steps that were counted."""

import ast
from pathlib import Path

import pytest

from unisd_rl.cli import parse_fields
from unisd_rl.config.load import RECIPES, load_recipe, overlay
from unisd_rl.config.run import RunConfig
from unisd_rl.driver.build import counted
from unisd_rl.driver.console import Console
from unisd_rl.driver.dry_run import describe_run
from unisd_rl.driver.run_dir import RunDirectory
from unisd_rl.errors import UserError
from unisd_rl.replay import replay_request
from unisd_rl.storage.recorded_run import resumed_config

ROOT = Path(__file__).parents[3]
ROWS = sorted(file.stem for file in RECIPES.glob("*.toml"))


@pytest.mark.parametrize(
    "epochs,problems,batch,steps",
    [
        (1, 120, 16, 8),  # MBPP sanitized: 7.5, rounded up
        (1, 6508, 16, 407),  # ScienceQA without images: 406.75
        (2, 48, 8, 12),
        (3, 10, 4, 8),  # rounded up once, not once an epoch: 30 / 4 = 7.5
        (1, 1, 64, 1),
    ],
)
def test_epochs_are_counted_as_steps_rounded_up_once(epochs, problems, batch, steps):
    config = load_recipe("unisd_star", {"run": {"epochs": epochs}, "learner": {"batch_size": batch}, "rollout": {
        "lease_unit": 1}})  # fmt: skip
    assert config.counted(problems).run.total_steps == steps
    assert config.counted(problems).run.epochs is None


def test_an_epoch_counts_problems_each_of_which_has_so_many_answers(capsys, tmp_path):
    """100 problems with 4 answers each are 400 completions: 6.25 steps of 64."""
    directory, sections = RunDirectory(tmp_path / "run"), {"run": {"epochs": 1}, "rollout": {"answers_per_prompt": 4}}
    config = load_recipe("unisd_star", sections)
    directory.create(config)
    assert counted(config, 100, directory, Console()).run.total_steps == 7
    directory.close()
    assert "1 epoch of 100 problems: 7 steps of 16 prompts, 4 answers each" in capsys.readouterr().out
    assert "1 epoch of 16 prompts, 4 answers each" in next(describe_run(config, False))


def test_steps_that_are_given_stay_whatever_the_data_holds():
    config = load_recipe("unisd_star")
    assert config.run.total_steps == 40
    assert config.counted(7) == config


def test_without_either_a_run_has_forty_steps():
    assert (RunConfig().steps, RunConfig().epochs) == (40, None)
    assert (RunConfig(epochs=2).steps, RunConfig(epochs=2).epochs) == (None, 2)


@pytest.mark.parametrize("section", [{"steps": 5, "epochs": 1}, {"steps": None}, {"steps": None, "epochs": None}])
def test_both_or_neither_is_refused_with_both_values(section):
    with pytest.raises(UserError, match=r"run: steps = (5|None) and epochs = (1|None): .*give one of them"):
        load_recipe("unisd_star", {"run": {"epochs": None, **section}})


def test_epochs_that_are_not_counted_are_never_read_as_steps():
    with pytest.raises(AssertionError, match="counted"):
        _ = RunConfig(epochs=1).total_steps


@pytest.mark.parametrize("setup", ["qwen2_5_7b", "qwen2_5_0_5b"])
@pytest.mark.parametrize("name", ROWS)
def test_the_papers_set_ups_train_one_epoch_whichever_row_they_lie_over(name, setup):
    run = load_recipe([name, setup]).run
    assert (run.steps, run.epochs) == (None, 1)


def test_the_later_of_two_lengths_counts(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[run]\nepochs = 3\n")
    layers = ["unisd_star", str(file)]
    assert load_recipe(layers).run.epochs == 3
    assert load_recipe(layers, parse_fields(["--run.steps", "5"], "run")).run.total_steps == 5
    assert load_recipe("unisd_star", parse_fields(["--run.epochs", "2"], "run")).run.length == "2 epochs"
    assert load_recipe("unisd_star", parse_fields(["--run.epochs", "null"], "run")).run.total_steps == 40
    arguments = overlay({"task": {"arguments": {"steps": 3}}}, {"task": {"arguments": {"epochs": 1}}})
    assert arguments == {"task": {"arguments": {"steps": 3, "epochs": 1}}}  # a user's own words


def test_a_dry_run_says_epochs_where_nothing_is_counted_yet():
    assert "1 epoch of 64 prompts" in next(describe_run(load_recipe("unisd_star", {"run": {"epochs": 1}}), False))


@pytest.fixture
def run(tmp_path):
    """The folder of a run of two epochs before its problems are counted."""
    directory = RunDirectory(tmp_path / "mine")
    directory.create(load_recipe("unisd_star", {"run": {"epochs": 2, "dir": str(tmp_path), "name": "mine"}}))
    yield directory
    directory.close()


def begun(directory: RunDirectory, problems: int):
    directory.close()
    return counted(resumed_config(directory.path, {}), problems, directory, Console())


def test_the_counted_steps_are_what_a_resumed_run_and_a_replay_read(run, capsys):
    assert begun(run, 100).run.total_steps == 4  # 2 * 100 / 64 = 3.1
    assert "2 epochs of 100 problems: 4 steps of 64 prompts" in capsys.readouterr().out
    assert resumed_config(run.path, {}).run.total_steps == 4
    assert resumed_config(run.path, {"run": {"steps": 4}}).run.total_steps == 4
    (run.path / "rollouts").mkdir()
    (run.path / "base_model").mkdir()
    assert replay_request(run.path, False, {}).config.run.total_steps == 4


def test_an_average_that_the_counted_steps_never_update_is_named(tmp_path, capsys):
    """MBPP's 120 problems are 8 steps of 16, and the row updates its average after 10."""
    folder = RunDirectory(tmp_path / "run")
    for problems, named in ((120, True), (6508, False)):
        config = load_recipe("ema", {"run": {"epochs": 1}, "learner": {"batch_size": 16}})
        folder.create(config)
        counted(config, problems, folder, Console())
        folder.close()
        assert ("note: objective.ema has no effect" in capsys.readouterr().out) == named


def test_a_run_that_was_killed_before_it_counted_counts_when_resumed(run):
    run.close()
    assert resumed_config(run.path, {}).run.epochs == 2


def test_a_resumed_run_takes_no_other_length(run):
    begun(run, 100)
    with pytest.raises(UserError, match=r"run\.epochs = 2: .*recorded as run\.steps; leave it out"):
        resumed_config(run.path, {"run": {"epochs": 2}})
    with pytest.raises(UserError, match=r"run\.steps = 3: .* has 4"):
        resumed_config(run.path, {"run": {"steps": 3}})


def test_a_replay_of_epochs_is_refused_since_it_counts_no_problems(run):
    begun(run, 100)
    (run.path / "rollouts").mkdir()
    (run.path / "base_model").mkdir()
    with pytest.raises(UserError, match=r"run\.epochs = 2: a replay .*give --run\.steps"):
        replay_request(run.path, False, {"run": {"epochs": 2}})


def test_no_code_reads_the_length_before_it_is_counted():
    """`run.steps` is None in a run of epochs: whoever needs a number reads `total_steps`, which says so."""
    files = [file for top in ("unisd_rl", "actors", "learner", "benchmarks") for file in (ROOT / top).rglob("*.py")]
    assert len(files) > 200
    assert [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "steps" and ast.unparse(node.value).split(".")[-1] == "run"
    ] == []

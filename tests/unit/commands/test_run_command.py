"""`python -m unisd_rl.run` as a user meets it: refusals, help and the dry run, in a process of its own."""

import socket
import sys
from functools import partial

import pytest

from tests.fakes.commands import SMALL, command, dry_run, started
from tests.fakes.tiny_chat_model import save_model, save_tokenizer
from unisd_rl import run
from unisd_rl.cli import check_trackers, split_arguments
from unisd_rl.errors import UserError
from unisd_rl.run import checked_request

command, dry_run = partial(command, "unisd_rl.run"), partial(dry_run, "unisd_rl.run")


def test_help_imports_nothing_heavy_and_lists_the_fields():
    result = command("--help-all")
    assert result.code == 0
    assert "--rollout.max_staleness" in result.output
    result = started("unisd_rl.run", "--help")
    assert result.code == 0
    assert "--dry-run" in result.output
    assert not result.heavy


def test_the_screen_says_what_runs_before_anything_heavy_is_imported(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "unisd_rl.train", None)  # its import fails
    with pytest.raises(ImportError):
        run._run(["ema", "--run.dir", str(tmp_path)])
    assert capsys.readouterr().out == f"run {tmp_path}/ema: 40 steps of 64 prompts\nloading the libraries ...\n"


def test_a_dry_run_imports_no_engine_and_names_the_processes():
    result = dry_run("unisd_star", *SMALL, "--rollout.actors", "2", "--learner.ranks", "3")
    assert result.code == 0, result.errors
    assert "2 x rollout actor: 1 CPU" in result.output
    assert "3 x learner rank: 1 CPU" in result.output


def test_recipes_before_the_first_option_lie_over_one_another():
    result = dry_run("ema", "qwen2_5_0_5b", *SMALL, "--rollout.actors", "3")
    assert result.code == 0, result.errors
    assert "run runs/ema: 1 epoch of 64 prompts" in result.output
    assert "3 x rollout actor: 1 CPU, 1 GPU" in result.output
    assert result.errors == ""


def test_a_run_notes_the_recipes_that_it_was_made_from_and_its_config_toml_keeps_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cats.toml").write_text('extends = "unisd_star"\n[run]\nsteps = 3\n')
    noted = {
        (): "unisd_star, colocated",
        ("unisd_star",): "unisd_star",
        ("ema", "qwen2_5_0_5b"): "ema, qwen2_5_0_5b",
        ("cats.toml",): "unisd_star, cats.toml",
        ("embedded", "ema"): "embedded, ema",
    }
    for recipes, names in noted.items():
        assert checked_request([*recipes, "--run.name", "new"]).config.run.recipe == names
    (tmp_path / "config.toml").write_text('extends = "ema"\n[run]\nrecipe = "unisd_star, cats.toml"\n')
    assert checked_request(["config.toml"]).config.run.recipe == "unisd_star, cats.toml"


def test_without_a_recipe_the_embedded_model_takes_turns_but_on_a_cluster(monkeypatch):
    assert checked_request([]).config.run.placement == "colocated"
    assert checked_request(["unisd_star"]).config.run.placement == "apart"
    assert split_arguments(["--model.path=own", "--run.steps", "3"])[0] == ["unisd_star"]
    assert split_arguments(["--dry-run", "--model.path", "own"])[0] == ["unisd_star"]
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert checked_request([]).config.run.placement == "apart"


BAD = {
    "set-up alone": (["qwen2_5_7b"], "put a recipe before the set-up"),
    "base and evaluations": (["ssd", "--evaluation.every", "3"], "evaluation.every = 3"),
    "unknown key": (["--run.stepz", "3"], "--run.stepz"),
    "bad value": (["--run.steps", "many"], "run.steps = 'many'"),
    "missing recipe": (["nowhere.toml"], "nowhere.toml"),
    "one view with agreement": (["--contexts.auxiliary.views", "1"], "at least 2"),
    "publication too rare": (["--weights.publish_every", "5"], "weights.publish_every = 5"),
    "missing model": (["--model.path", "/nowhere/model"], "/nowhere/model"),
    "missing data": (["--model.path", "a/b", "--task.type", "jsonl", "--task.train", "none.jsonl"], "none.jsonl"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_exit_code_2_before_anything_heavy(case):
    arguments, named = BAD[case]
    result = command(*arguments)
    assert result.code == 2
    assert result.errors.startswith("error: ")
    assert len(result.errors.splitlines()) == 1
    assert named in result.errors
    assert not result.heavy


def test_a_record_without_its_field_is_refused_with_its_line_number(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "p", "demonstration": "d", "answer": "a"}\n{"prompt": "p", "answer": "a"}\n')
    result = command("--model.path", "a/b", "--task.type", "jsonl", "--task.train", str(data))
    assert result.code == 2
    assert "line 2" in result.errors
    assert "demonstration" in result.errors
    assert not result.heavy


def test_a_model_inside_the_folder_that_would_be_moved_aside_is_refused(tmp_path):
    checkpoint = tmp_path / "first" / "checkpoints" / "step-3"
    checkpoint.mkdir(parents=True)
    arguments = ("--run.dir", str(tmp_path), "--model.path", str(checkpoint), "--run.name")
    assert checked_request([*arguments, "second"]).config.run.name == "second"
    refused = command(*arguments, "first")
    assert refused.code == 2
    assert "run.name" in refused.errors


def test_a_model_in_the_home_folder_is_found(tmp_path):
    (tmp_path / "model").mkdir()
    save_tokenizer(tmp_path / "model")
    save_model(tmp_path / "model", tied=True)
    result = dry_run("--model.path", "~/model", *SMALL, HOME=str(tmp_path))
    assert result.code == 0, result.errors


def test_a_tracker_that_is_not_installed_is_refused_with_the_command_that_installs_it():
    check_trackers(("tensorboard",))
    with pytest.raises(UserError, match=r"'no_such_tracker', which is not installed: pip install 'unisd-rl\[no_such"):
        check_trackers(("tensorboard", "no_such_tracker"))


def test_a_folder_that_is_called_as_a_tracker_is_no_library(tmp_path, monkeypatch):
    (tmp_path / "no_such_tracker" / "run-1").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="not installed"):
        check_trackers(("no_such_tracker",))


def test_a_setting_that_cannot_act_is_said():
    result = dry_run(*SMALL, "--objective.clipping.threshold", "10", "--objective.clipping.quantile", "null")
    assert result.code == 0
    assert "clip threshold 10 can never bind" in result.errors


def test_contexts_that_no_term_reads_are_said():
    result = dry_run("clip", *SMALL, "--contexts.auxiliary.views", "2", "--contexts.negative.attempts", "3")
    assert result.code == 0
    assert [line.partition(" gives")[0] for line in result.errors.splitlines()] == [
        "note: contexts.auxiliary",
        "note: contexts.negative",
    ]


def test_a_folder_for_temporary_files_whose_name_leaves_no_room_for_sockets_is_refused(tmp_path):
    for name in ("TMPDIR", "RAY_TMPDIR"):
        for arguments in ([], ["--dry-run"]):
            result = command(*arguments, "--run.dir", str(tmp_path / "runs"), **{name: "/tmp/" + "long" * 24})
            assert result.code == 2
            assert result.errors.startswith(f"error: {name} = '/tmp/long")
            assert f"e.g. {name}=/tmp" in result.errors
            assert len(result.errors.splitlines()) == 1
            assert not result.heavy
    assert "is not a folder that can be written" in command("--dry-run", TMPDIR="/dev/null").errors
    assert not (tmp_path / "runs").exists()


def test_a_run_never_begins_in_a_folder_that_holds_something_else(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    result = command("--run.dir", str(tmp_path), "--run.name", "thesis")
    assert (result.code, result.heavy) == (2, frozenset())
    assert f"{tmp_path}/thesis is there and is not the folder of a run" in result.errors
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_a_cluster_that_is_not_there_is_refused_at_once(tmp_path):
    with socket.socket() as nobody:  # bound, but not listening
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        result = command("--run.dir", str(tmp_path), RAY_ADDRESS=address)
    assert result.code == 2
    assert f"RAY_ADDRESS = {address}" in result.errors


def test_going_on_with_a_folder_is_refused_before_anything_heavy(tmp_path):
    for arguments, named in (
        (["--resume", str(tmp_path)], "is not the folder of a run"),
        (["--resume", str(tmp_path), "ema"], "leave out 'ema'"),
        (["--resume"], "--resume needs the folder"),
    ):
        result = command(*arguments)
        assert result.code == 2
        assert named in result.errors
        assert len(result.errors.splitlines()) == 1
        assert not result.heavy


def test_a_run_is_gone_on_with_in_its_own_folder_on_other_resources(tmp_path):
    task = '[task]\ntype = "arithmetic"\ntrain_examples = 64\neval_examples = 8\n'
    (tmp_path / "config.toml").write_text(f"[run]\nsteps = 7\n{task}[objective.divergence]\n")
    result = dry_run("--resume", str(tmp_path), "--learner.ranks", "3")
    assert result.code == 0, result.errors
    assert f"run {tmp_path}: 7 steps" in result.output
    assert "3 x learner rank" in result.output


def test_a_relative_run_folder_is_refused_under_a_ray_job():
    for arguments, named in (([], "run.dir"), (["--resume", "runs/arithmetic"], "resume")):
        result = command(*arguments, RAY_JOB_CONFIG_JSON_ENV_VAR="{}")
        assert result.code == 2
        assert named in result.errors
        assert "absolute" in result.errors

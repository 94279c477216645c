"""A fork begins with another run's checkpoint, under its own name and steps, and says where it came from."""

import os

import pytest

from tests.unit.storage.test_resuming import CONFIG
from unisd_rl.cli import split_fork
from unisd_rl.config.load import load_recipe
from unisd_rl.driver.run_dir import RunDirectory
from unisd_rl.errors import UserError
from unisd_rl.storage.checkpoints import RUN_STATE, RunState, write_manifest
from unisd_rl.storage.fork import FORK, fork_of, forked_config, keep_checkpoint


def begun(path, config):
    directory = RunDirectory(path)
    directory.create(config)
    directory.close()
    checkpoint = directory.checkpoint(4)
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    (checkpoint / RUN_STATE).write_text(RunState(1, 4, 256, ()).to_json())
    write_manifest(checkpoint)
    return path


@pytest.fixture
def source(tmp_path):
    """The folder of a run with a checkpoint of step 4."""
    return begun(tmp_path / "runs" / "mine", CONFIG)


def test_a_fork_has_the_runs_settings_a_name_of_its_own_and_its_origin(source):
    config = forked_config(source, 4, {"objective": {"clipping": None}, "run": {"steps": 3}})
    assert config.run_dir == source.parent / "mine-from-4"
    assert config.run.forked_from == f"{source}@4"
    assert (config.run.total_steps, config.objective.clipping) == (3, None)
    assert config.objective.agreement == CONFIG.objective.agreement
    assert config.learner == CONFIG.learner


def test_a_fork_of_a_prolonged_run_has_a_schedule_of_its_own(tmp_path):
    config = CONFIG.model_copy(update={"run": CONFIG.run.prolonged(9)})
    assert forked_config(begun(tmp_path / "longer", config), 4, {}).run.earlier_steps == ()


def test_the_checkpoint_is_kept_with_the_fork_when_its_run_removes_it(source, tmp_path):
    config, fork = forked_config(source, 4, {}), tmp_path / "fork of it"
    fork.mkdir()
    keep_checkpoint(config, fork)
    for file in (source / "checkpoints" / "step-4").iterdir():
        file.unlink()
    keep_checkpoint(config, fork)  # it is there already
    kept = fork_of(config, fork)
    assert (kept.path, kept.state.version) == (fork / FORK, 4)
    assert (kept.path / "model.safetensors").read_bytes() == b"weights"


def test_a_file_system_without_links_gets_copies(source, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    config = forked_config(source, 4, {})
    keep_checkpoint(config, tmp_path)
    assert fork_of(config, tmp_path).state.version == 4


def test_a_run_that_is_no_fork_keeps_none(source, tmp_path):
    keep_checkpoint(CONFIG, tmp_path)
    assert fork_of(CONFIG, tmp_path) is None
    assert list(tmp_path.iterdir()) == [source.parent]


def test_a_damaged_checkpoint_is_refused_before_and_after_it_is_kept(source, tmp_path):
    config, weights = forked_config(source, 4, {}), source / "checkpoints" / "step-4" / "model.safetensors"
    keep_checkpoint(config, tmp_path)
    (tmp_path / FORK / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"began with a checkpoint of .*put it back"):
        fork_of(config, tmp_path)
    weights.write_bytes(b"others")
    with pytest.raises(UserError, match="that checkpoint cannot be taken"):
        keep_checkpoint(config, source)
    assert not (source / FORK).exists()


@pytest.mark.parametrize(
    "step,changes,said",
    [
        (5, {}, "has no checkpoint of step 5; it has those of: 4"),
        (4, {"model": {"lora": {"rank": 4}}}, "model.lora.* begins with the weights of"),
        (4, {"model": {"base_seed": 1}}, "model.base_seed = 1: .*begins with the weights of 0"),
    ],
)
def test_what_the_checkpoint_cannot_give_is_refused(source, step, changes, said):
    with pytest.raises(UserError, match=said):
        forked_config(source, step, changes)


def test_a_teacher_cannot_come_from_a_run_that_had_none(tmp_path):
    source = begun(tmp_path / "sft", load_recipe("sft"))
    forked_config(source, 4, {})
    with pytest.raises(UserError, match="had no teacher"):
        forked_config(source, 4, {"objective": {"divergence": {}}})


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not the folder of a run"):
        forked_config(tmp_path, 4, {})


def test_the_words_of_a_fork_are_a_folder_and_a_step():
    (folder, step), others = split_fork(["--x", "1", "--fork", "runs/a@b@20"])
    assert (str(folder), step, others) == ("runs/a@b", 20, ["--x", "1"])
    assert split_fork(["--x", "1"]) == (None, ["--x", "1"])
    for words in (["--fork"], ["--fork", "runs/a"], ["--fork", "runs/a@last"], ["--fork=@3"]):
        with pytest.raises(UserError, match="a step that it has a checkpoint of"):
            split_fork(words)

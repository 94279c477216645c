"""A checkpoint is written whole beside its place or not at all, whatever the disk does."""

import pytest
import torch

from learner.checkpoint import save_checkpoint
from learner.errors import CheckpointNotWritten
from tests.fakes.tiny_chat_model import save_model, save_tokenizer
from unisd_rl.config.model import ModelConfig
from unisd_rl.storage.checkpoints import RunState, newest_first, open_verified

STATE = RunState(lineage=1, version=4, next_prompt=32, fall_backs=())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_tokenizer(path)
    save_model(path, tied=True)
    return path


class Counted:
    """Named tensors that every rank has to iterate to the end."""

    def __init__(self, count):
        self.left = count

    def __iter__(self):
        while self.left:
            self.left -= 1
            yield f"kind/{self.left}", torch.full((8,), float(self.left))


def save(model, path, run_state=STATE, tensors=None):
    tensors = tensors or [Counted(2), Counted(0), Counted(5)]
    save_checkpoint(*tensors, model, ModelConfig(), path, run_state)


def test_a_checkpoint_is_whole_and_says_where_the_run_stood(model, tmp_path):
    save(model, tmp_path / "step-4")
    assert open_verified(tmp_path / "step-4").state == STATE
    assert [path.name for path in tmp_path.iterdir()] == ["step-4"]


def test_a_later_one_of_the_same_name_takes_the_place_of_the_first(model, tmp_path):
    for lineage in (0, 1):
        save(model, tmp_path / "step-4", RunState(lineage, 4, 32, ()))
    assert open_verified(tmp_path / "step-4").state.lineage == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-4"]


def test_a_model_nobody_goes_on_from_is_no_checkpoint(model, tmp_path):
    save(model, tmp_path / "lent", run_state=None, tensors=[Counted(2), Counted(0), Counted(0)])
    assert (tmp_path / "lent" / "model.safetensors").exists()
    assert not (tmp_path / "lent" / "manifest.json").exists()


def test_a_full_disk_keeps_the_old_one_and_every_collective_is_gone_through(model, tmp_path, monkeypatch):
    save(model, tmp_path / "step-4")
    tensors = [Counted(2), Counted(3), Counted(5)]

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("learner.checkpoint.save_file", full)
    with pytest.raises(CheckpointNotWritten, match=r"step-4 could not be written: .*No space left"):
        save(model, tmp_path / "step-4", RunState(2, 4, 32, ()), tensors)
    assert [counted.left for counted in tensors] == [0, 0, 0]
    assert open_verified(tmp_path / "step-4").state == STATE
    assert newest_first(tmp_path) == (tmp_path / "step-4",)
    assert len(list(tmp_path.iterdir())) == 1


def test_what_does_not_write_goes_through_every_collective_too(model, tmp_path):
    tensors = [Counted(2), Counted(3), Counted(5)]
    save(model, None, tensors=tensors)
    assert [counted.left for counted in tensors] == [0, 0, 0]

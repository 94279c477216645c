"""A checkpoint is written whole beside its place or not at all, whatever the disk does."""

import json

import pytest
import torch
from transformers import AutoConfig

from learner.checkpoint import save_checkpoint
from learner.errors import CheckpointNotWritten
from tests.fakes.tiny_chat_model import save_model, save_tokenizer
from unisd_rl.errors import UserError
from unisd_rl.models.load import companions
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
    weights, adapter, state = tensors
    layout = {f"kind/{number}": (torch.float32, torch.Size([8])) for number in range(weights.left)}
    save_checkpoint(weights, layout, adapter, state, companions(model, "float32"), None, path, run_state)


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

    monkeypatch.setattr("learner.weights_file._bytes", full)
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


@pytest.fixture
def released(tmp_path):
    """A folder as some models are released: a generation configuration that transformers reads and does not write, one
    of its settings in config.json too, an older name of the dtype, a second chat template, weights in another form."""
    path = tmp_path / "released"
    save_tokenizer(path)
    save_model(path, tied=True)
    (path / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.6, "eos_token_id": 256}')
    config = json.loads((path / "config.json").read_text()) | {"torch_dtype": "float16", "temperature": 0.7}
    (path / "config.json").write_text(json.dumps(config))
    (path / "additional_chat_templates").mkdir()
    (path / "additional_chat_templates" / "rag.jinja").write_text("{{ messages }}")
    (path / "pytorch_model.bin.index.json").write_text("{}")
    return path


def test_what_only_travels_along_is_the_models_own_to_the_last_byte(released, tmp_path):
    save(released, tmp_path / "step-4", tensors=[Counted(2), Counted(0), Counted(0)])
    saved = tmp_path / "step-4"
    names = {str(file.relative_to(saved)) for file in saved.rglob("*") if file.is_file()}
    copied = {name for name in names if (released / name).is_file()} - {"config.json", "model.safetensors"}
    assert {"generation_config.json", "tokenizer.json", "additional_chat_templates/rag.jinja"} <= copied
    assert all((saved / name).read_bytes() == (released / name).read_bytes() for name in copied)
    assert not [name for name in names if "pytorch_model" in name]


def test_the_configuration_keeps_all_but_its_dtype(released, tmp_path):
    save(released, tmp_path / "step-4", tensors=[Counted(2), Counted(0), Counted(0)])
    before, after = (json.loads((path / "config.json").read_text()) for path in (released, tmp_path / "step-4"))
    del before["torch_dtype"]
    assert after == before | {"dtype": "float32"}
    assert AutoConfig.from_pretrained(tmp_path / "step-4").dtype == torch.float32


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json"])
def test_a_model_that_no_checkpoint_could_be_written_of_is_refused_before_it_is_trained(released, file):
    (released / file).write_text("{")
    with pytest.raises(UserError, match=f"transformers does not load model.path = {released}"):
        companions(released, "float32")

"""An archive is whole or refused: what a killed process left is never trained on."""

import pytest
import torch

from learner import training_state as archive
from learner.training_state import Archive, write_archive
from unisd_rl.errors import RunFailed

TENSORS = {f"kind/{index}": torch.randn(3, index + 1) for index in range(7)}


def test_what_was_written_is_read_whatever_the_size_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "_FILE_BYTES", 100)
    write_archive(tmp_path / "a", TENSORS.items())
    found = Archive(tmp_path / "a")
    assert found._file_of.keys() == TENSORS.keys()
    assert all(torch.equal(found.tensor(name), tensor) for name, tensor in TENSORS.items())
    assert len(list((tmp_path / "a").glob("*.safetensors"))) > 2


def test_a_tensor_that_changes_after_it_was_yielded_is_kept_as_it_was(tmp_path):
    buffer = torch.zeros(2)

    def yielded():
        for index in range(3):
            yield str(index), buffer.fill_(index)

    write_archive(tmp_path, yielded())
    assert [Archive(tmp_path).tensor(str(index))[0].item() for index in range(3)] == [0.0, 1.0, 2.0]


def test_an_archive_cut_short_is_refused(tmp_path):
    def cut():
        yield "first", torch.zeros(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_archive(tmp_path, cut())
    with pytest.raises(RunFailed, match="cut short"):
        Archive(tmp_path)


def test_a_missing_file_or_tensor_is_named(tmp_path):
    write_archive(tmp_path, TENSORS.items())
    with pytest.raises(RunFailed, match="kind/none"):
        Archive(tmp_path).tensor("kind/none")
    next(tmp_path.glob("*.safetensors")).unlink()
    with pytest.raises(RunFailed, match="tensors-00000"):
        Archive(tmp_path)

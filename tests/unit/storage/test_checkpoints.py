"""A checkpoint is complete or it is passed over, and the old ones stay until a new one is complete."""

import pytest

from unisd_rl.storage.checkpoints import (
    DamagedCheckpoint,
    RunState,
    keep_newest,
    latest_valid,
    newest_first,
    open_verified,
    write_manifest,
)
from unisd_rl.storage.lineage import Rollback


def written(folder, step, lineage=0):
    path = folder / f"step-{step}"
    (path / "training_state").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights of %d" % step)
    (path / "training_state" / "tensors-00000.safetensors").write_bytes(b"moments")
    (path / "run_state.json").write_text(RunState(lineage, step, step * 8, (Rollback(1, 2, 3),)).to_json())
    write_manifest(path)
    return path


def truncate(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_written_is_what_is_read(tmp_path):
    checkpoint = open_verified(written(tmp_path, 4))
    assert checkpoint.state == RunState(0, 4, 32, (Rollback(1, 2, 3),))


FILES = ("model.safetensors", "training_state/tensors-00000.safetensors", "run_state.json", "manifest.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [truncate, lambda path: path.unlink()], ids=["truncated", "missing"])
def test_no_file_can_be_cut_short_or_lost_unnoticed(tmp_path, name, damage):
    path = written(tmp_path, 4)
    damage(path / name)
    with pytest.raises(DamagedCheckpoint, match="step-4"):
        open_verified(path)


def test_a_changed_byte_is_noticed(tmp_path):
    path = written(tmp_path, 4)
    (path / "model.safetensors").write_bytes(b"weights of 5")
    with pytest.raises(DamagedCheckpoint, match=r"model\.safetensors is not what was written"):
        open_verified(path)


def test_they_are_ordered_by_step_and_half_written_ones_are_none(tmp_path):
    for step in (2, 10, 9):
        written(tmp_path, step)
    for name in ("step-11.partial", "step-12.old", "other"):
        (tmp_path / name).mkdir()
    assert [path.name for path in newest_first(tmp_path)] == ["step-10", "step-9", "step-2"]


def test_a_damaged_one_is_reported_and_the_one_before_it_used(tmp_path):
    events = []
    written(tmp_path, 2)
    truncate(written(tmp_path, 4) / "model.safetensors")
    assert latest_valid(tmp_path, (), events.append).path.name == "step-2"
    (fault,) = events
    assert fault.component == "checkpoint"
    assert "step-4/model.safetensors" in fault.reason


def test_without_a_whole_one_there_is_none(tmp_path):
    truncate(written(tmp_path, 4) / "manifest.json")
    assert latest_valid(tmp_path, (), lambda event: None) is None
    assert latest_valid(tmp_path / "nowhere", (), lambda event: None) is None


def test_one_that_the_run_fell_back_past_is_not_gone_on_from(tmp_path):
    for step in (2, 4, 6):
        written(tmp_path, step, lineage=0)
    assert latest_valid(tmp_path, (Rollback(1, 4, 2),), lambda event: None).path.name == "step-4"
    assert latest_valid(tmp_path, (Rollback(1, 3, 3),), lambda event: None).path.name == "step-2"


def test_only_the_newest_are_kept(tmp_path):
    for step in (2, 4, 6):
        written(tmp_path, step)
    (tmp_path / "step-8.partial").mkdir()
    (tmp_path / "step-8-best").mkdir()  # a person's
    (tmp_path / "mine").mkdir()
    assert keep_newest(tmp_path, 2) == 4
    assert names(tmp_path) == ["mine", "step-4", "step-6", "step-8-best"]


def test_while_there_are_fewer_than_are_kept_the_initial_model_is_one_to_go_back_to(tmp_path):
    for step in (2, 4):
        written(tmp_path, step)
    assert keep_newest(tmp_path, 3) == 0
    assert names(tmp_path) == ["step-2", "step-4"]

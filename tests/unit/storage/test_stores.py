"""Where a ledger lies: found again by whoever opens the run's folder, and never told with credentials."""

import gc
import json
import random
from uuid import uuid4

import pytest

from tests.fakes.counted_store import COUNTED, counted
from tests.fakes.failing_store import FAILING, store_fails_in
from tests.fakes.rollout_rows import append, rollout, same_rollouts
from unisd_rl.errors import UserError
from unisd_rl.storage.stores import open_store, pin_location
from unisd_rl.transport.rollouts.ledger import Ledger


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_a_ledger_elsewhere_is_found_from_the_runs_folder(tmp_path, kind):
    folder = tmp_path / "runs" / "one" / "rollouts"
    elsewhere = str(tmp_path / "shared") if kind == "folder" else f"memory://{uuid4()}"
    append(Ledger(pin_location(folder, elsewhere), fsync=True), rollout(1))
    assert [path.name for path in folder.iterdir()] == ["elsewhere.json"]
    assert json.loads((folder / "elsewhere.json").read_text())["place"].startswith(f"{elsewhere}/one-")
    assert same_rollouts(Ledger(folder, fsync=False).rollouts([1]), [rollout(1)])


def test_two_runs_never_share_a_place_and_a_run_opened_again_keeps_its_own(tmp_path):
    first, second = tmp_path / "a" / "run" / "rollouts", tmp_path / "b" / "run" / "rollouts"
    shared = str(tmp_path / "shared")
    append(Ledger(pin_location(first, shared), fsync=True), rollout(1))
    assert len(Ledger(pin_location(second, shared), fsync=True)) == 0
    assert list(Ledger(pin_location(first, shared), fsync=True).numbers) == [1]
    assert list(Ledger(pin_location(first, None), fsync=True).numbers) == [1]


def test_a_run_that_began_in_its_folder_stays_there(tmp_path):
    append(Ledger(pin_location(tmp_path / "rollouts", None), fsync=True), rollout(1))
    assert list(Ledger(pin_location(tmp_path / "rollouts", str(tmp_path / "shared")), fsync=True).numbers) == [1]


@pytest.mark.parametrize("nbytes", [0, 1, (1 << 16) - 1, 1 << 16, 5 * (1 << 16) + 3])
def test_a_file_of_any_length_is_written_whole(tmp_path, nbytes):
    place, data = open_store(tmp_path, fsync=True), random.Random(0).randbytes(nbytes)
    with place.create("folder/file") as file:
        file.write(data)
    assert (tmp_path / "folder" / "file").read_bytes() == data


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("memory://key:hidden@host/folder", "'memory://host/folder' was given with credentials"),
        ("abfs://box/folder?sig=hidden", "'abfs://box/folder' was given with credentials"),
        ("nosuch://box/folder", "'nosuch://box/folder' cannot be reached: Protocol not known"),
    ],
)
def test_a_place_that_cannot_be_used_is_refused_in_one_sentence_without_credentials(url, told):
    with pytest.raises(UserError) as refused:
        open_store(url, fsync=False)
    assert told in str(refused.value)
    assert "hidden" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("error", [TimeoutError("no answer"), ConnectionError("gone"), KeyError("region")])
def test_whatever_an_object_store_raises_is_an_os_error_and_never_a_timeout_of_who_waits_for_rollouts(error):
    place = open_store(f"{FAILING}://{uuid4()}/rollouts", fsync=False)
    told = r"^(gone|failing://.* failed: (TimeoutError: no answer|KeyError: 'region'))$"
    with pytest.raises(OSError, match=told) as raised, place.create("segments/1"):
        raise error
    assert not isinstance(raised.value, TimeoutError)


def test_a_store_that_fails_says_so_whatever_is_asked_of_it():
    place = open_store(f"{FAILING}://{uuid4()}/rollouts", fsync=False)
    with place.create("segments/1") as file:
        file.write(b"rows")
    with store_fails_in("segments"):
        with pytest.raises(OSError, match="SlowDown"), place.open("segments/1"):
            pass
        with pytest.raises(OSError, match="SlowDown"):
            place.remove(["segments/1"])
    place.remove(["segments/1", "segments/2"])
    with pytest.raises(FileNotFoundError), place.open("segments/1"):
        pass


def test_an_object_whose_writing_failed_is_never_put_not_by_the_garbage_collector_either():
    place = open_store(f"{COUNTED}://{uuid4()}/rollouts", fsync=False)

    def written_in_part():
        with place.create("segments/1") as file:
            file.write(b"half of it")
            raise OSError("gave up")

    with pytest.raises(OSError, match="gave up"):
        written_in_part()
    with counted(operations=0), pytest.raises(OSError, match="stopped"):
        place.append("segments/2", b"all of it, and refused", 0)
    gc.collect()
    assert place.names("segments") == []
    place.append("segments/1", b"whole", 0)
    assert place.names("segments") == ["1"]

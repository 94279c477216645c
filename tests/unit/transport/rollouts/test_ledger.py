"""What is stored stays stored, once, and comes back in any order asked for; in a folder and in an object store."""

import asyncio
import json
import os
from dataclasses import replace
from uuid import uuid4

import numpy as np
import pytest

from tests.fakes.full_disk import files_of_at_most, full_device
from tests.fakes.rollout_rows import append, rollout, same_rollouts
from tests.fakes.stopping import stops_after
from unisd_rl.transport.rollouts import ledger as ledger_module
from unisd_rl.transport.rollouts.ledger import Ledger
from unisd_rl.transport.rollouts.schema import decode, encode
from unisd_rl.transport.rollouts.segments import load


@pytest.fixture(params=["folder", "memory"])
def place(request, tmp_path):
    return tmp_path if request.param == "folder" else f"memory://{uuid4()}/rollouts"


@pytest.fixture
def ledger(place):
    return Ledger(place, fsync=True)


def append_together(ledger, *calls):
    """Appends started at the same time; what they return or raise."""

    async def together():
        return await asyncio.gather(*(ledger.append(encode(rows)) for rows in calls), return_exceptions=True)

    return asyncio.run(together())


def test_rows_come_back_in_the_order_asked_for_across_segments(ledger, place):
    append(ledger, rollout(4), rollout(1))
    append(ledger, rollout(0), rollout(9))
    for one in (ledger, Ledger(place, fsync=False)):  # from memory, and from storage
        assert same_rollouts(one.rollouts([9, 1, 0, 4]), [rollout(9), rollout(1), rollout(0), rollout(4)])
        assert one.rollouts([]) == []


def test_a_number_is_stored_once_and_the_first_row_stays(ledger):
    assert append(ledger, rollout(1, actor="first")) == (1,)
    assert append(ledger, rollout(2), rollout(1, actor="late"), rollout(2, actor="late")) == (2,)
    assert append(ledger, rollout(1, actor="late")) == ()
    assert [row.actor for row in ledger.rollouts([1, 2])] == ["first", "a"]


def test_barred_numbers_are_refused(ledger):
    assert append(ledger, rollout(1), rollout(2), barred={1}) == (2,)
    assert 1 not in ledger


def test_calls_that_arrive_during_a_write_share_a_segment_and_doubles_among_them_are_refused(ledger):
    async def scenario():
        first = asyncio.create_task(ledger.append(encode([rollout(0)])))
        for _ in range(3):
            await asyncio.sleep(0)  # the first is being written now
        rows = [[rollout(1, actor="b")], [rollout(0, actor="c"), rollout(2)], [rollout(1, actor="d")]]
        others = [asyncio.create_task(ledger.append(encode(call))) for call in rows]
        return await asyncio.gather(first, *others)

    assert asyncio.run(scenario()) == [(0,), (1,), (2,), ()]
    assert [entry.numbers for entry in ledger.entries] == [(0,), (1, 2)]
    assert [row.actor for row in ledger.rollouts([0, 1, 2])] == ["a", "b", "a"]


def test_calls_that_together_are_too_large_have_segments_of_their_own(monkeypatch):
    sizes = {number: len(encode([rollout(number)])) for number in range(4)}
    monkeypatch.setattr(ledger_module, "_GROUP_BYTES", sizes[1] + sizes[2])
    ledger = Ledger(f"memory://{uuid4()}", fsync=False)

    async def scenario():
        first = asyncio.create_task(ledger.append(encode([rollout(0)])))
        for _ in range(3):
            await asyncio.sleep(0)  # the first is being written now
        others = [asyncio.create_task(ledger.append(encode([rollout(number)]))) for number in (1, 2, 3)]
        return await asyncio.gather(first, *others)

    assert asyncio.run(scenario()) == [(number,) for number in range(4)]
    assert [entry.numbers for entry in ledger.entries] == [(0,), (1, 2), (3,)]


def test_what_is_remembered_is_bounded_and_everything_else_is_read_from_storage(monkeypatch):
    one = len(encode([rollout(7)]))
    monkeypatch.setattr(ledger_module, "_RECENT_BYTES", 3 * one)
    ledger = Ledger(f"memory://{uuid4()}", fsync=False)
    for number in range(9):
        append(ledger, rollout(number))
    loaded = []
    monkeypatch.setattr(
        ledger_module, "load", lambda place, entry, rows: (loaded.extend(entry.numbers), load(place, entry, rows))[1]
    )
    assert [row.number for row in ledger.rollouts(range(9))] == list(range(9))
    assert loaded == [0, 1, 2, 3, 4, 5]


def test_what_is_not_read_soon_again_is_no_longer_in_memory_and_comes_from_storage(ledger, place):
    for numbers in ((0, 1), (3, 2), (1, 5), (4,)):
        append(ledger, *(rollout(number) for number in numbers))
    for end, kept in ((1, 4), (2, 3), (4, 2), (5, 2), (6, 0)):
        ledger.forget(end)
        assert len(ledger._recent) == kept, f"up to the oldest commit with a number of {end} or above"
        assert same_rollouts(ledger.rollouts(range(6)), [rollout(number) for number in range(6)])
    assert ledger._recent_bytes == 0
    append(ledger, rollout(6))
    assert same_rollouts(ledger.rollouts(range(7)), [rollout(number) for number in range(7)])


def test_a_caller_that_gives_up_holds_up_no_other_of_its_group(ledger):
    async def scenario():
        leaving, staying = (asyncio.create_task(ledger.append(encode([rollout(number)]))) for number in (1, 2))
        await asyncio.sleep(0)
        leaving.cancel()
        return await staying

    assert asyncio.run(scenario()) == (2,)


def test_a_ledger_opened_again_is_equal(ledger, place):
    append(ledger, rollout(1), rollout(0))
    append(ledger, rollout(2, versions=(0, 1, 1)))
    again = Ledger(place, fsync=False)
    assert again.entries == ledger.entries
    assert (len(again), again.tokens) == (3, 1 + 1 + 3)
    assert same_rollouts(again.rollouts([0, 1, 2]), ledger.rollouts([0, 1, 2]))
    assert append(again, rollout(2), rollout(3)) == (3,)


def test_reading_makes_no_files(tmp_path):
    assert len(Ledger(tmp_path / "nowhere", fsync=True)) == 0
    assert not (tmp_path / "nowhere").exists()


def test_what_was_cut_short_is_ignored_and_its_number_not_used_again(tmp_path):
    ledger, whole = Ledger(tmp_path, fsync=True), encode([rollout(1)])
    append(ledger, rollout(1))
    (tmp_path / "segments" / "00000002.arrows.part").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "segments" / "00000003.arrows").write_bytes(whole[:100])  # no index entry was written
    (tmp_path / "index" / "00000003.json.part").write_text('{"segm')  # of a version that renamed them
    (tmp_path / "segments" / "00000004.arrows").write_bytes(whole)
    (tmp_path / "index" / "00000004.jsonl").write_text('{"numb')
    for folder in ("segments", "index"):  # and behind what was whole
        with next((tmp_path / folder).glob("00000001.*")).open("ab") as file:
            file.write(b'{"numbers":[7],"lengths":[1],')
    again = Ledger(tmp_path, fsync=False)
    assert again.entries == ledger.entries
    assert append(again, rollout(2)) == (2,)
    assert [entry.segment for entry in again.entries] == [1, 5]
    assert same_rollouts(Ledger(tmp_path, fsync=False).rollouts([1, 2]), [rollout(1), rollout(2)])


def test_a_damaged_segment_is_noticed(tmp_path):
    ledger = Ledger(tmp_path, fsync=True)
    append(ledger, rollout(1))
    path = tmp_path / "segments" / "00000001.arrows"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(OSError, match="damaged"):
        Ledger(tmp_path, fsync=True).rollouts([1])


def test_what_was_stored_last_is_read_from_memory_within_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger_module, "_RECENT_BYTES", 1)
    ledger = Ledger(tmp_path, fsync=False)
    for number in range(3):
        append(ledger, rollout(number))
    for path in (tmp_path / "segments").iterdir():
        path.unlink()
    assert same_rollouts(ledger.rollouts([2]), [rollout(2)])
    with pytest.raises(FileNotFoundError):
        ledger.rollouts([1])


def test_large_calls_written_together_come_back_as_they_were(ledger, place, monkeypatch):
    monkeypatch.setattr(ledger_module, "_LARGE_CALL_BYTES", 1)
    append_together(ledger, [rollout(1), rollout(2)], [rollout(3)], [rollout(1), rollout(4)])
    assert len(ledger.entries) == 1
    for one in (ledger, Ledger(place, fsync=False)):
        assert same_rollouts(one.rollouts([4, 2, 3, 1]), [rollout(number) for number in (4, 2, 3, 1)])


@pytest.mark.parametrize("full", ["new segment", "new index", "half way", "half way, new segment"])
def test_a_full_disk_is_told_to_every_caller_of_the_group_and_leaves_nothing(tmp_path, full):
    ledger = Ledger(tmp_path, fsync=True)
    append(ledger, rollout(0))
    if "new" in full:
        ledger = Ledger(tmp_path, fsync=True)
    before = contents(tmp_path)
    disk = {
        "new segment": full_device(tmp_path / "segments" / "00000002.arrows"),
        "new index": full_device(tmp_path / "index" / "00000002.jsonl"),
    }.get(full, files_of_at_most(64 << 10))
    large = replace(rollout(2), prompt_tokens=np.zeros(100_000, np.int32))
    with disk:
        raised = append_together(ledger, [rollout(1)], [large], [rollout(1, actor="double"), rollout(0)])
    assert [type(error) for error in raised] == [OSError] * 3
    assert contents(tmp_path) == before
    assert (len(ledger), ledger.tokens) == (1, 1)
    assert append(ledger, rollout(1), large) == (1, 2)
    assert same_rollouts(Ledger(tmp_path, fsync=False).rollouts([0, 1, 2]), [rollout(0), rollout(1), large])


def contents(folder):
    """A link would be to the device without room, which is read without end."""
    return {path: not path.is_symlink() and path.read_bytes() for path in folder.rglob("*") if not path.is_dir()}


def test_what_a_failure_could_not_remove_gives_way_to_what_is_stored_later(tmp_path):
    """The entry is on the disk when its folder cannot be synced, and the disk refuses the removal too."""
    append(Ledger(tmp_path, fsync=True), rollout(0))
    ledger = Ledger(tmp_path, fsync=True)
    with stops_after(tmp_path, 2), pytest.raises(OSError):  # two files opened; then syncing the folder
        append(ledger, rollout(1, versions=(0, 0), actor="failed"))
    assert (1 in ledger, 1 in Ledger(tmp_path, fsync=False)) == (False, True)
    append(ledger, rollout(1, actor="stored"))
    again = Ledger(tmp_path, fsync=False)
    assert [row.actor for row in again.rollouts([0, 1])] == ["a", "stored"]
    assert (len(again), again.tokens) == (2, 2)


def test_an_append_stopped_after_any_file_operation_is_there_whole_or_not_at_all(tmp_path):
    operations, stopped = 0, True
    while stopped:
        folder = tmp_path / str(operations)
        append(Ledger(folder, fsync=True), rollout(0))
        with stops_after(folder, operations) as stop:
            try:
                append(Ledger(folder, fsync=True), rollout(1), rollout(2))
            except OSError:
                stopped = True
            else:
                stopped = stop.stopped
        again = Ledger(folder, fsync=True)
        assert list(again.numbers) in ([0], [0, 1, 2])
        assert same_rollouts(again.rollouts(list(again.numbers)), [rollout(number) for number in again.numbers])
        append(again, rollout(1), rollout(2), rollout(3))
        assert list(Ledger(folder, fsync=True).numbers) == [0, 1, 2, 3]
        operations += 1
    assert operations > 2  # two files are opened


def test_an_index_has_a_line_of_json_a_commit_that_names_its_rows_and_where_they_lie(tmp_path):
    ledger = Ledger(tmp_path, fsync=False)
    append(ledger, rollout(7, versions=(0, 0)), rollout(3))
    append(ledger, rollout(4))
    one, other = map(json.loads, (tmp_path / "index" / "00000001.jsonl").read_text().splitlines())
    size = os.path.getsize(tmp_path / "segments" / "00000001.arrows")
    assert (one["numbers"], one["lengths"], one["offset"], one["nbytes"]) == ([7, 3], [2, 1], 0, other["offset"])
    assert (other["numbers"], other["lengths"], other["offset"] + other["nbytes"]) == ([4], [1], size)
    stored = (tmp_path / "segments" / "00000001.arrows").read_bytes()
    assert [row.number for row in decode(stored[other["offset"] :])] == [4]

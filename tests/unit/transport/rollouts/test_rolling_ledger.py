"""A ledger rolls: full segments are compacted while others are appended, and nothing depends on when, or on a crash."""

import asyncio
import logging
import shutil
from contextlib import suppress
from dataclasses import replace
from uuid import uuid4

import numpy as np
import pytest

from tests.fakes.compaction import wait_for_compaction
from tests.fakes.counted_store import COUNTED, counted
from tests.fakes.old_ledger import write_old_compacted, write_old_segment
from tests.fakes.rollout_rows import append, rollout, same_rollouts
from tests.fakes.stopping import stops_after
from unisd_rl.storage.stores import LocalStore
from unisd_rl.transport.rollouts import compaction, segments
from unisd_rl.transport.rollouts import ledger as ledger_module
from unisd_rl.transport.rollouts.ledger import Ledger
from unisd_rl.transport.rollouts.schema import SCHEMA, encode

pytestmark = pytest.mark.exhaustive

ROW_BYTES = len(encode([rollout(0)]))


def row(number, actor="a"):
    return rollout(number, (0,) * (number % 3), actor)


def rows(numbers):
    return [row(number) for number in numbers]


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    """A segment is full after two commits of a row, and a compacted file takes two segments."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", int(1.5 * ROW_BYTES))
    monkeypatch.setattr(compaction, "_COMPACTED_BYTES", int(4.5 * ROW_BYTES))
    monkeypatch.setattr(ledger_module, "_RECENT_BYTES", 3 * ROW_BYTES)


@pytest.fixture(params=["folder", "memory"])
def place(request, tmp_path):
    return tmp_path / "rollouts" if request.param == "folder" else f"memory://{uuid4()}/rollouts"


def nearly_in_order(count):
    """0 to `count` - 1 as actors would bring them."""
    return sorted(range(count), key=lambda number: number + 7 * ((number * 2654435761) % 2**32) / 2**32)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def whole(ledger, numbers, actor="a"):
    found = ledger.rollouts(numbers)
    tokens = sum(number % 3 for number in range(len(ledger)))
    return same_rollouts(found, [row(number, actor) for number in numbers]) and ledger.tokens == tokens


@pytest.mark.parametrize("waits", [True, False])
def test_whatever_was_compacted_meanwhile_rows_are_read_as_they_came(place, waits):
    ledger, order = Ledger(place, fsync=False), nearly_in_order(61)
    for count, number in enumerate(order):
        assert append(ledger, row(number), row(order[count // 2])) == (number,)
        if waits:
            wait_for_compaction(ledger)
        if count % 5 == 0:
            ledger.forget(count // 2)
        if count % 7 == 0:
            assert same_rollouts(ledger.rollouts(order[: count + 1]), rows(order[: count + 1]))
    wait_for_compaction(ledger)
    for one in (ledger, Ledger(place, fsync=False)):
        assert list(one.numbers) == list(range(61))
        assert whole(one, list(range(61)))
        assert whole(one, order[::-1])
        assert append(one, row(3, "late"), row(60, "late")) == ()
        assert len(one.compacted) >= 5


def test_files_and_what_is_known_of_single_rows_are_bounded_by_what_is_not_compacted(tmp_path):
    ledger = Ledger(tmp_path, fsync=False)
    for number in nearly_in_order(120):
        append(ledger, row(number))
        wait_for_compaction(ledger)
    assert len(ledger._positions) <= 2 * 4 + 3  # two segments, one that is open, and what is in memory
    assert len(ledger.compacted) == 120 // 4 - 1
    assert len(files(tmp_path)) <= 2 * (120 // 4) + 2 * 3
    assert sum(len(file.ranges) for file in ledger.compacted) < 120


def test_stopped_after_any_file_operation_nothing_acknowledged_is_lost_and_the_next_owner_goes_on(tmp_path):
    stopped, operations, unfinished = True, 0, 0
    while stopped:
        folder, acknowledged = tmp_path / f"{operations}", []
        with stops_after(folder, operations) as stop:
            ledger = Ledger(folder, fsync=True)
            for number in range(7):
                try:
                    acknowledged += append(ledger, row(number))
                except OSError:
                    assert stop.stopped
                wait_for_compaction(ledger)
        stopped = stop.stopped
        names = files(folder)
        unfinished += any("compacted" in name for name in names) and any("00000001.a" in name for name in names)
        again = Ledger(folder, fsync=True)
        assert set(acknowledged) <= set(again.numbers)
        assert same_rollouts(again.rollouts(list(again.numbers)), rows(again.numbers))
        for number in range(11):
            append(again, row(number))
        wait_for_compaction(again)
        last = Ledger(folder, fsync=True)
        assert list(last.numbers) == list(range(11))
        assert whole(last, list(range(11)))
        last.compact()
        assert whole(Ledger(folder, fsync=True), list(range(11)))
        assert all("compacted" in name for name in files(folder))
        operations += 1
    # three folders, seven commits to two files, a compaction with two files created and renamed, and four removed
    assert operations >= 3 + 2 * 7 + 2 * 2 + 4 + 1
    assert unfinished >= 5


def test_an_object_store_that_a_run_leaves_after_any_put_or_deletion_has_all_that_was_acknowledged():
    stopped, operations, unfinished = True, 0, 0
    while stopped:
        place, acknowledged = f"{COUNTED}://{uuid4()}/rollouts", []
        with counted(operations) as counter:
            ledger = Ledger(place, fsync=False)
            for number in range(7):
                with suppress(OSError):
                    acknowledged += append(ledger, row(number))
                wait_for_compaction(ledger)
        stopped, names = counter.stopped, [*counter.put, *counter.deleted]
        unfinished += "index/compacted-00000001.json" in names and len(counter.deleted) < 4
        again = Ledger(place, fsync=False)
        assert set(acknowledged) <= set(again.numbers)
        assert same_rollouts(again.rollouts(list(again.numbers)), rows(again.numbers))
        for number in range(11):
            append(again, row(number))
        wait_for_compaction(again)  # or it would be counted in the next round
        again.compact()
        assert list(Ledger(place, fsync=False).numbers) == list(range(11))
        assert whole(Ledger(place, fsync=False), list(range(11)))
        operations += 1
    # seven commits, a compacted file of four of them and its index, and those removed
    assert operations == 7 + 2 + 4 + 1
    assert unfinished == 4


def test_an_object_store_is_asked_for_one_object_a_window_however_many_commits_it_has():
    ledger = Ledger(f"{COUNTED}://{uuid4()}/rollouts", fsync=False)

    async def window(first, commits):
        await asyncio.gather(*(ledger.append(encode([row(first + number)])) for number in range(commits)))

    for index, commits in enumerate((1, 5, 40)):
        with counted() as counter:
            asyncio.run(window(100 * index, commits))
        assert [name for name in counter.put if "compacted" not in name] == [f"segments/{index + 1:08d}.arrows"]
        wait_for_compaction(ledger)
    assert len(ledger) == 46


def test_a_ledger_copied_from_an_object_store_is_the_same_in_a_folder_and_goes_on_there(tmp_path):
    ledger = Ledger(f"{COUNTED}://{uuid4()}/rollouts", fsync=False)
    for number in range(7):
        append(ledger, row(number))
        wait_for_compaction(ledger)
    for folder in ("index", "segments"):
        (tmp_path / folder).mkdir()
        for name in ledger._files.names(folder):
            with ledger._files.open(f"{folder}/{name}") as file:
                (tmp_path / folder / name).write_bytes(file.read())
    copied = Ledger(tmp_path, fsync=False)
    assert (len(copied.compacted), len(copied.entries)) == (1, 3)
    assert whole(copied, list(range(7)))
    for number in range(7, 12):
        append(copied, row(number))
        wait_for_compaction(copied)
    assert whole(Ledger(tmp_path, fsync=False), list(range(12)))


def test_an_object_that_is_no_commit_or_a_part_of_one_does_not_count():
    ledger = Ledger(f"{COUNTED}://{uuid4()}/rollouts", fsync=False)
    append(ledger, row(0))
    with ledger._files.open("segments/00000001.arrows") as file:
        commit = file.read()
    end = commit.index(b"\n")
    for number, data in enumerate((b"", b"{", commit[:end], commit[end + 1 :], b"a note"), start=2):
        ledger._files.append(f"segments/{number:08d}.arrows", data, 0)
    again = Ledger(f"{ledger._files}", fsync=False)
    assert (list(again.numbers), [entry.segment for entry in again.entries]) == ([0], [1])
    append(again, row(1))
    assert [entry.segment for entry in again.entries] == [1, 7]
    assert whole(again, [0, 1])


def test_a_line_or_rows_cut_short_anywhere_cost_the_commit_that_they_are_of_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 100 * ROW_BYTES)
    ledger = Ledger(tmp_path, fsync=False)
    for number in range(3):
        append(ledger, row(number))
    index, before = tmp_path / "index" / "00000001.jsonl", ledger.entries
    text = index.read_bytes()
    ends = [end for end in range(len(text) + 1) if text[end - 1 : end] in (b"\n", b"")]
    for size in range(len(text) + 1):
        index.write_bytes(text[:size])
        again = Ledger(tmp_path, fsync=False)
        count = sum(end <= size for end in ends[1:])
        assert again.entries == before[:count]
        assert same_rollouts(again.rollouts(list(range(count))), rows(range(count)))
    with (tmp_path / "segments" / "00000001.arrows").open("ab") as file:
        file.write(b"rows whose line was never written")
    again = Ledger(tmp_path, fsync=False)
    assert append(again, row(3)) == (3,)
    assert whole(Ledger(tmp_path, fsync=False), [3, 1, 2, 0])


def test_a_compaction_that_fails_is_tried_again_and_fails_no_commit(place, monkeypatch, caplog):
    ledger, true_load = Ledger(place, fsync=False), compaction.load

    def one_bit_off(files, source, wanted):
        table, lies = true_load(files, source, wanted)
        if isinstance(source, segments.CompactedFile):
            seeds = table["seed"].to_numpy() ^ (np.arange(len(table)) == 1)
            table = table.set_column(table.schema.get_field_index("seed"), SCHEMA.field("seed"), [seeds])
        return table, lies

    monkeypatch.setattr(compaction, "load", one_bit_off)
    with caplog.at_level(logging.WARNING):
        for number in range(12):
            append(ledger, row(number))
            wait_for_compaction(ledger)
    assert "does not read back as it was written: nothing was removed" in caplog.text
    assert ledger.compacted == Ledger(place, fsync=False).compacted == []
    assert whole(ledger, list(range(12)))
    assert whole(Ledger(place, fsync=False), list(range(12)))
    monkeypatch.undo()
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1)
    monkeypatch.setattr(compaction, "_COMPACTED_BYTES", int(4.5 * ROW_BYTES))
    for number in range(12, 16):
        append(ledger, row(number))
        wait_for_compaction(ledger)
    assert ledger.compacted
    assert whole(ledger, list(range(16)))
    assert whole(Ledger(place, fsync=False), list(range(16)))


def test_a_reader_that_was_opened_before_a_compaction_reads_what_was_there(place):
    ledger = Ledger(place, fsync=False)
    for number in range(4):
        append(ledger, row(number))
    reader = Ledger(place, fsync=False)
    for number in range(4, 30):
        append(ledger, row(number))
        wait_for_compaction(ledger)
    assert len(ledger.compacted) >= 5
    assert same_rollouts(reader.rollouts([2, 0, 3, 1]), rows([2, 0, 3, 1]))


def test_the_number_of_a_segment_that_was_compacted_away_is_never_used_again(place):
    ledger = Ledger(place, fsync=False)
    for number in range(4):
        append(ledger, row(number))
    Ledger(place, fsync=False).compact()
    for number in range(4, 9):
        append(Ledger(place, fsync=False), row(number))
    again = Ledger(place, fsync=False)
    assert whole(again, list(range(9)))
    assert not {entry.segment for entry in again.entries} & {*again.compacted[0].replaces}


def test_what_a_failure_left_behind_does_not_count_beside_what_was_compacted_since(tmp_path):
    for number in range(3):
        append(Ledger(tmp_path, fsync=True), row(number))
    ledger = Ledger(tmp_path, fsync=True)
    with stops_after(tmp_path, 2), pytest.raises(OSError):  # its line is on the disk, and could not be taken back
        append(ledger, rollout(3, (0,) * 9, "failed"))
    assert 3 in Ledger(tmp_path, fsync=True)
    for number in range(3, 8):
        append(ledger, row(number, "stored"))
        wait_for_compaction(ledger)
    for one in (ledger, Ledger(tmp_path, fsync=True)):
        assert [found.actor for found in one.rollouts(list(range(8)))] == ["a"] * 3 + ["stored"] * 5
        assert (len(one), one.tokens) == (8, sum(number % 3 for number in range(8)))
    again = Ledger(tmp_path, fsync=True)
    again.compact()
    assert [found.actor for found in Ledger(tmp_path, fsync=True).rollouts(list(range(8)))] == ["a"] * 3 + [
        "stored"
    ] * 5
    assert all("compacted" in name for name in files(tmp_path))


def test_a_segment_whose_last_write_failed_is_never_written_to_again(tmp_path, monkeypatch):
    """Its last line may be there, and rows written where those of the line are would make it one of a damaged file."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 100 * ROW_BYTES)
    ledger, true_append = Ledger(tmp_path, fsync=False), LocalStore.append

    def fails_after_the_line(files, name, data, at):
        if data:
            true_append(files, name, data, at)
        if not data or name.startswith(segments.INDEX):
            raise OSError("the disk is gone")

    append(ledger, row(0))
    with monkeypatch.context() as broken:
        broken.setattr(LocalStore, "append", fails_after_the_line)
        with pytest.raises(OSError, match="gone"):
            append(ledger, row(1, "failed"))
    for number in range(1, 7):
        append(ledger, row(number))
    assert [entry.segment for entry in ledger.entries] == [1] + 6 * [2]
    assert whole(Ledger(tmp_path, fsync=False), list(range(7)))
    kept = (
        (tmp_path / "index" / "00000001.jsonl").read_bytes(),
        (tmp_path / "segments" / "00000001.arrows").read_bytes(),
    )
    ledger.compact()
    (tmp_path / "index" / "00000001.jsonl").write_bytes(kept[0])  # stopped before these were removed
    (tmp_path / "segments" / "00000001.arrows").write_bytes(kept[1])
    again = Ledger(tmp_path, fsync=False)
    assert (again.entries, whole(again, list(range(7)))) == ((), True)


def test_a_damaged_segment_is_not_compacted_away(tmp_path):
    ledger = Ledger(tmp_path, fsync=False)
    for number in range(4):
        append(ledger, row(number))
    path = tmp_path / "segments" / "00000001.arrows"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    before = files(tmp_path)
    with pytest.raises(OSError, match=r"00000001\.arrows is damaged"):
        Ledger(tmp_path, fsync=False).compact()
    assert files(tmp_path) == before


@pytest.fixture
def old(tmp_path):
    """Of an earlier version: compacted once, with segments that this had not removed yet, and appended to since."""
    write_old_compacted(tmp_path, 1, rows([0, 1, 2, 3, 6]))
    write_old_segment(tmp_path, 2, rows([3, 6]))
    write_old_segment(tmp_path, 3, rows([5]))
    write_old_segment(tmp_path, 4, [row(4, "failed"), row(7)])  # 4 was told to have failed, and came again
    write_old_segment(tmp_path, 5, rows([4]))
    return tmp_path


def test_a_ledger_of_an_earlier_version_opens_goes_on_and_is_compacted(old):
    ledger = Ledger(old, fsync=False)
    assert whole(ledger, [7, 0, 6, 4, 5, 3, 2, 1])
    assert append(ledger, row(8), row(6, "late")) == (8,)
    assert whole(Ledger(old, fsync=False), list(range(9)))
    for number in range(9, 20):
        append(ledger, row(number))
        wait_for_compaction(ledger)
    assert whole(ledger, list(range(20)))
    assert whole(Ledger(old, fsync=False), list(range(20)))
    Ledger(old, fsync=False).compact()
    assert whole(Ledger(old, fsync=False), list(range(20)))
    assert all("compacted" in name for name in files(old))


def test_a_commit_that_is_larger_than_a_file_is_one(place):
    ledger = Ledger(place, fsync=False)
    large = [replace(row(number), prompt_tokens=np.arange(1000, dtype=np.int32)) for number in range(8)]
    assert append(ledger, *large) == tuple(range(8))
    for number in range(8, 20):
        append(ledger, row(number))
        wait_for_compaction(ledger)
    assert ledger.compacted[0].ranges.tolist() == [[0, 8]]
    assert same_rollouts(Ledger(place, fsync=False).rollouts(list(range(8))), large)


def test_other_files_in_its_folders_are_left_alone(tmp_path):
    for folder in ("segments", "index"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "notes.txt").write_text("mine")
    append(Ledger(tmp_path, fsync=False), row(0))
    Ledger(tmp_path, fsync=False).compact()
    assert [name for name in files(tmp_path) if "compacted" not in name] == ["index/notes.txt", "segments/notes.txt"]


def test_commits_go_on_while_a_file_is_compacted(tmp_path):
    """Nothing of a compaction is done by the calls that wait: what is open goes on while one is written."""

    async def scenario():
        ledger = Ledger(tmp_path, fsync=False)
        await asyncio.gather(*(ledger.append(encode([row(number)])) for number in range(64)))
        for number in range(64, 96):
            await ledger.append(encode([row(number)]))
        wait_for_compaction(ledger)
        return ledger

    assert whole(asyncio.run(scenario()), list(range(96)))


def discarding(ledger, end):
    """Append 0 to `end` - 1, of which those more than eight numbers back may go."""
    for number in range(end):
        if append(ledger, row(number)):
            wait_for_compaction(ledger)
        ledger.discard(number - 8)
        wait_for_compaction(ledger)


def test_what_was_thrown_away_is_refused_as_before_and_counted_and_its_files_are_gone(place):
    ledger = Ledger(place, fsync=False)
    discarding(ledger, 40)
    for one in (ledger, Ledger(place, fsync=False)):
        gone = one.discarded.numbers
        assert (gone.ranges[0][0], len(gone.ranges)) == (0, 1)
        assert 40 - 8 - 4 - 2 <= gone.end <= 40 - 8
        assert (len(one), one.tokens) == (40, sum(number % 3 for number in range(40)))
        assert same_rollouts(one.rollouts(list(range(gone.end, 40))), rows(range(gone.end, 40)))
        assert append(one, row(0), row(gone.end - 1), row(39)) == ()
        with pytest.raises(KeyError):
            Ledger(place, fsync=False).read([gone.end - 1])
        assert one.compacted[0].first == gone.end
    names = ledger._files.names("index") + ledger._files.names("segments")
    assert len(names) <= 1 + 2 * 3 + 2 * 6  # of an object store, segments are of one row
    assert sum("discarded" in name for name in names) == 1


def test_throwing_away_stopped_after_any_file_operation_loses_nothing_else_and_uses_no_number_again(tmp_path):
    original, stopped, operations = tmp_path / "original", True, 0
    discarding(Ledger(original, fsync=True), 18)
    before = Ledger(original, fsync=True).discarded.numbers.end
    assert before > 0
    while stopped:
        folder = tmp_path / f"{operations}"
        shutil.copytree(original, folder)
        with stops_after(folder, operations) as stop:
            ledger = Ledger(folder, fsync=True)
            ledger.discard(14)
            wait_for_compaction(ledger)
        stopped = stop.stopped
        again = Ledger(folder, fsync=True)
        kept = list(again.numbers - again.discarded.numbers)
        assert (list(again.numbers), again.tokens) == (list(range(18)), 18)
        assert before <= again.discarded.numbers.end <= 14
        assert same_rollouts(again.rollouts(kept), rows(kept))
        again.discard(14)
        again.compact()
        wait_for_compaction(again)
        last = Ledger(folder, fsync=True)
        assert (len(last), last.tokens, last.discarded.numbers.end > before) == (18, 18, True)
        assert append(last, row(0), row(18)) == (18,)
        assert whole_from(Ledger(folder, fsync=True))
        operations += 1
    # what was thrown away, written and renamed; the record before it, and the index and the rows of each file
    assert operations >= 2 + 1 + 2


def whole_from(ledger):
    kept = list(ledger.numbers - ledger.discarded.numbers)
    return same_rollouts(ledger.rollouts(kept), rows(kept))

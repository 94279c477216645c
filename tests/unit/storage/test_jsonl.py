"""Lines are complete in the file or still in memory, whatever the disk and the process do."""

import errno
import json
import os

import pytest

from tests.fakes.full_disk import files_of_at_most
from unisd_rl.storage import jsonl
from unisd_rl.storage.jsonl import JsonLinesFile, iter_json_lines, read_json_lines


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_cut_short_by_a_crash_is_taken_off_and_the_others_stay(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n{"ste')
    JsonLinesFile(path).append_or_keep({"step": 1, "lineage": 1})
    assert lines(path) == [{"step": 0}, {"step": 1}, {"step": 1, "lineage": 1}]


def test_what_a_full_disk_does_not_take_is_written_with_a_later_line(tmp_path, monkeypatch):
    file, path = JsonLinesFile(tmp_path / "lines.jsonl"), tmp_path / "lines.jsonl"
    file.append_or_keep({"step": 0})
    write, room = os.write, [5]

    def nearly_full(descriptor, data):
        if room:
            return write(descriptor, data[: room.pop()])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", nearly_full)
    file.append_or_keep({"step": 1})  # five bytes of it are taken
    assert lines(path) == [{"step": 0}]
    file.append_or_keep({"step": 2})  # none
    assert lines(path) == [{"step": 0}]
    monkeypatch.setattr(os, "write", write)
    file.append_or_keep({"step": 3})
    assert lines(path) == [{"step": number} for number in range(4)]


def test_records_are_restored_in_order_and_a_line_cut_short_is_taken_off(tmp_path):
    path = tmp_path / "journal.jsonl"
    assert read_json_lines(path) == []
    JsonLinesFile(path, fsync=True).append([{"a": 1}, {"a": 2}])
    with path.open("a") as file:
        file.write('{"a": ')
    assert read_json_lines(path) == [{"a": 1}, {"a": 2}]
    JsonLinesFile(path).append([{"a": 3}])
    assert read_json_lines(path) == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_records_that_do_not_fit_on_the_disk_leave_nothing_of_them(tmp_path):
    path = tmp_path / "journal.jsonl"
    file = JsonLinesFile(path, fsync=True)
    file.append([{"a": 1}])
    with files_of_at_most(4096), pytest.raises(OSError):
        file.append({"a": number} for number in range(2000))
    file.append([{"a": 2}])
    assert read_json_lines(path) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("block", [1, 2, 3, 5, 8, 100])
def test_a_file_read_in_blocks_is_read_whole_wherever_they_end(tmp_path, monkeypatch, block):
    monkeypatch.setattr(jsonl, "_BLOCK_BYTES", block)
    path, rows = tmp_path / "lines.jsonl", [{"step": number} for number in (0, 12, 345)]
    whole = "".join(json.dumps(row) + "\n" for row in rows)
    for torn in ("", "{", '{"step": 6}'):
        path.write_text(whole + torn)
        assert list(iter_json_lines(path, dict)) == rows
        JsonLinesFile(path)
        assert path.read_text() == whole
    path.write_text("torn")
    JsonLinesFile(path)
    assert path.read_text() == ""

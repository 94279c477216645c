"""Lines are whole on the file or still in memory, whatever the disk and the process do."""

import errno
import json
import os

from unisd_rl.storage.jsonl import LineFile


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_cut_short_by_a_crash_is_taken_off_and_the_others_stay(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n{"ste')
    LineFile(path).append({"step": 1, "lineage": 1})
    assert lines(path) == [{"step": 0}, {"step": 1}, {"step": 1, "lineage": 1}]


def test_what_a_full_disk_does_not_take_is_written_with_a_later_line(tmp_path, monkeypatch):
    file, path = LineFile(tmp_path / "lines.jsonl"), tmp_path / "lines.jsonl"
    file.append({"step": 0})
    write, room = os.write, [5]

    def nearly_full(descriptor, data):
        if room:
            return write(descriptor, data[: room.pop()])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", nearly_full)
    file.append({"step": 1})  # five bytes of it are taken
    assert lines(path) == [{"step": 0}]
    file.append({"step": 2})  # none
    assert lines(path) == [{"step": 0}]
    monkeypatch.setattr(os, "write", write)
    file.append({"step": 3})
    assert lines(path) == [{"step": number} for number in range(4)]

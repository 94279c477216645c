"""Lines stay in order, complete and readable while their file rolls over, wherever its writer is killed."""

import json
import os
from pathlib import Path

import pytest

from unisd_rl.driver.status import ConsumedTail, read_status
from unisd_rl.reporting.record import RunRecord
from unisd_rl.storage import jsonl, rolling
from unisd_rl.storage.jsonl import JsonLinesFile, LinesTail, newest_json_lines, read_json_lines
from unisd_rl.storage.recorded_run import RecordedRun
from unisd_rl.storage.rolling import closed_parts, open_parts


@pytest.fixture
def small_parts(monkeypatch):
    """A part is full after three lines such as `{"step":12}`."""
    monkeypatch.setattr(jsonl, "_PART_BYTES", 30)


def steps(first, last):
    return [{"step": number} for number in range(first, last)]


def test_parts_are_bounded_and_sort_by_their_names_in_the_order_of_their_lines(tmp_path, small_parts):
    path = tmp_path / "lines.jsonl"
    file = JsonLinesFile(path, fsync=True)
    for row in steps(10, 50):
        file.append([row])
    parts = sorted(tmp_path.iterdir())
    assert [part.name for part in parts] == [*(f"lines.{number:05d}.jsonl" for number in range(1, 14)), "lines.jsonl"]
    assert {part.stat().st_size for part in parts[:-1]} == {36}
    assert [json.loads(line) for part in parts for line in part.read_text().splitlines()] == steps(10, 50)
    assert read_json_lines(path) == steps(10, 50)
    assert [len(file.read().splitlines()) for _, file in open_parts(path, first=12)] == [3, 3, 1]


def test_other_files_with_similar_names_are_no_parts(tmp_path):
    for name in ("lines.00002.jsonl", "lines.00001.json", "lines.1.jsonl", "other.00001.jsonl", "lines.x00001.jsonl"):
        (tmp_path / name).touch()
    assert closed_parts(tmp_path / "lines.jsonl") == {2: tmp_path / "lines.00002.jsonl"}
    assert closed_parts(tmp_path / "nowhere" / "lines.jsonl") == {}


class Killed(BaseException):
    """The process ends at this moment."""


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("moment", ["before the rename", "after the rename", "in mid-write"])
def test_a_writer_killed_at_any_moment_of_a_roll_over_loses_nothing_that_it_answered(
    tmp_path, monkeypatch, small_parts, moment, sync
):
    path, rename, write = tmp_path / "lines.jsonl", Path.rename, os.write
    file = JsonLinesFile(path, sync)
    file.append(steps(10, 13))

    def killed_rename(source, target):
        if moment == "after the rename":
            rename(source, target)
        raise Killed

    def killed_write(descriptor, data):
        write(descriptor, data[:5])
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "write", killed_write) if moment == "in mid-write" else (Path, "rename", killed_rename)))
        with pytest.raises(Killed):
            file.append(steps(13, 14))
    assert read_json_lines(path) == steps(10, 13)
    again = JsonLinesFile(path, sync)
    again.append(steps(13, 14))
    assert read_json_lines(path) == steps(10, 14)
    assert sorted(closed_parts(path)) == [1]


def test_a_reader_misses_no_part_that_is_closed_while_it_opens_them(tmp_path, monkeypatch, small_parts):
    """Each time the parts are listed the writer closes one more, right afterwards."""
    path, listed = tmp_path / "lines.jsonl", rolling.closed_parts
    file = JsonLinesFile(path)
    file.append(steps(10, 13))
    more = iter(steps(13, 16))

    def written_meanwhile(of):
        found = listed(of)
        for row in more:
            monkeypatch.setattr(rolling, "closed_parts", listed)
            file.append([row] * 3)
            monkeypatch.setattr(rolling, "closed_parts", written_meanwhile)
            break
        return found

    monkeypatch.setattr(rolling, "closed_parts", written_meanwhile)
    assert read_json_lines(path) == [*steps(10, 13), *({"step": n} for n in (13, 14, 15) for _ in range(3))]


def test_a_reader_in_mid_file_is_given_the_lines_that_it_began_with_and_those_after(tmp_path, small_parts):
    path = tmp_path / "lines.jsonl"
    file = JsonLinesFile(path)
    file.append(steps(10, 13))
    parts = open_parts(path)
    _, newest = next(parts)
    file.append(steps(13, 16))
    assert len(newest.read().splitlines()) == 3


@pytest.mark.parametrize("nbytes", [0, 1, 12, 13, 24, 36, 37, 60, 500])
def test_a_tail_begins_with_whole_lines_and_is_then_given_every_line_once(tmp_path, small_parts, nbytes):
    path, whole = tmp_path / "lines.jsonl", 12  # bytes of a line
    file = JsonLinesFile(path)
    for row in steps(10, 20):
        file.append([row])
    tail = LinesTail(path, nbytes)
    count = min(10, nbytes // whole)
    found = [json.loads(line) for line in tail.read()]
    assert found in (steps(20 - count, 20), steps(21 - count, 20)), "the first one may be taken for one that is cut"
    for first in range(20, 44, 8):
        for row in steps(first, first + 8):
            file.append([row])
        with path.open("a") as torn:
            torn.write('{"st')
        assert [json.loads(line) for line in tail.read()] == steps(first, first + 8)
        JsonLinesFile(path)


def test_the_newest_lines_are_those_of_the_last_bytes(tmp_path, monkeypatch, small_parts):
    path = tmp_path / "lines.jsonl"
    assert newest_json_lines(path) == []
    file = JsonLinesFile(path)
    for row in steps(10, 20):
        file.append([row])
    assert newest_json_lines(path) == steps(10, 20)
    monkeypatch.setattr(jsonl, "_NEWEST_BYTES", 50)
    assert newest_json_lines(path) == steps(16, 20)


@pytest.mark.parametrize("part_bytes", [1, 100, 1 << 20])
def test_whoever_reads_a_run_reads_the_same_of_a_run_that_rolled_over(tmp_path, monkeypatch, part_bytes):
    """Status, report, comparison, replay and the driver's own view of what it consumes."""
    monkeypatch.setattr(jsonl, "_PART_BYTES", part_bytes)
    run = tmp_path / "run"
    run.mkdir()
    (run / "rollouts").mkdir()
    (run / "config.toml").write_text("[run]\nsteps = 9\n[objective]\n")
    metrics, events, consumed = (JsonLinesFile(run / f"{name}.jsonl") for name in ("metrics", "events", "consumed"))
    tail, taken = ConsumedTail(run / "consumed.jsonl"), []
    for step in range(9):
        metrics.append_or_keep({"step": step, "lineage": 0, "loss": 0.5 * step, "wait_s": 1.0})
        events.append_or_keep({"time_s": 0.0, "event": "failure", "component": "learner", "reason": f"died {step}"})
        consumed.append([{"step": step, "learner_lineage": 0, "actor": "a", "tokens": 10 + step}] * 2)
        taken.append(tail.tokens_by_actor(step, 0))
    assert taken == [{"a": 2 * (10 + step)} for step in range(9)]
    status = read_status(run)
    assert (status.step, status.line["loss"], status.tokens) == (9, 4.0, {"a": 36})
    assert "died 8" in status.fault
    record = RunRecord.at(run)
    assert [row["step"] for row in record.rows] == list(range(9))
    assert [event["reason"] for event in record.events] == [f"died {step}" for step in range(9)]
    assert RecordedRun.at(run).losses() == {step: 0.5 * step for step in range(9)}
    assert len(closed_parts(run / "metrics.jsonl")) == {1: 8, 100: 4, 1 << 20: 0}[part_bytes]

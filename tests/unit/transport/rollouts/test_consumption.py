"""What the learner was handed counts the same from summaries as from all lines, and a resume reads a bounded part."""

import json

import pytest

from unisd_rl.storage import jsonl
from unisd_rl.storage.jsonl import JsonLinesFile, read_json_lines
from unisd_rl.storage.rolling import closed_parts
from unisd_rl.transport.rollouts import consumption
from unisd_rl.transport.rollouts.batch import ConsumedRecord
from unisd_rl.transport.rollouts.consumption import Consumption
from unisd_rl.transport.rollouts.history import LineageLog

BATCH, STEPS_A_PART = 4, 3


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """A part is full after three steps."""
    monkeypatch.setattr(jsonl, "_PART_BYTES", 1 + (STEPS_A_PART - 1) * BATCH * 130)


def records(step, lineage=0):
    """Numbers step * BATCH and on, but for one in five; the newest token is of the version before."""
    return [
        ConsumedRecord(step, lineage, number, f"id-{number:06d}", "policy", lineage, max(0, step - 2), step - 1, 7, "a")
        for number in range(step * BATCH, (step + 1) * BATCH)
        if number % 5
    ]


def opened(folder):
    return Consumption(folder / "consumed.jsonl", False, LineageLog(folder / "lineages.jsonl"), 2)


def taken(consumption, steps, lineage=0):
    for step in steps:
        consumption.record(step, records(step, lineage))
    return consumption


def counts(one):
    return (
        list(one.numbers.ranges), one.doubled, len(one), one.rows, one.steps, one.tokens, one.straddling,
        one.max_staleness_seen,
    )  # fmt: skip


def from_all_lines(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(consumption, "newest_json_lines", lambda path: [])
        return counts(opened(folder))


@pytest.fixture
def lines_read(monkeypatch):
    """How many records were decoded so far."""
    read = []

    def counted(*arguments, **named):
        for record in jsonl.iter_json_lines(*arguments, **named):
            read.append(record)
            yield record

    monkeypatch.setattr(consumption, "iter_json_lines", counted)
    return read


def test_opening_reads_as_many_lines_after_a_run_ten_times_as_long(tmp_path, lines_read, monkeypatch):
    found = {}
    for steps in (20, 200):
        folder = tmp_path / str(steps)
        folder.mkdir()
        before = counts(taken(opened(folder), range(steps)))
        lines_read.clear()
        assert counts(opened(folder)) == before
        found[steps] = len(lines_read)
        assert from_all_lines(folder, monkeypatch) == before
        parts = len(closed_parts(folder / "consumed.jsonl"))
        assert parts == len(read_json_lines(folder / "consumed_summaries.jsonl")) == (steps - 1) // STEPS_A_PART
    most = STEPS_A_PART * BATCH
    assert max(found.values()) <= most, "the lines of the newest part"


@pytest.mark.parametrize("step", [0, 1, 3, 7, 8, 9, 10, 17, 18, 19])
def test_after_a_rollback_a_summary_of_lines_it_undid_holds_no_more(tmp_path, monkeypatch, step):
    consumed = taken(opened(tmp_path), range(20))
    lineages = LineageLog(tmp_path / "lineages.jsonl")
    consumed._lineages = lineages
    lineages.roll_back(1, step, 20 - step)
    consumed.recount()
    assert consumed.steps == step
    assert counts(consumed) == from_all_lines(tmp_path, monkeypatch) == counts(opened(tmp_path))
    taken(consumed, range(step, 25), lineage=1)
    assert (len(consumed), consumed.rows, consumed.doubled) == (80, 80, 0), "100 prompts, of which every fifth is none"
    assert counts(consumed) == from_all_lines(tmp_path, monkeypatch) == counts(opened(tmp_path))


def test_the_step_taken_last_counts_once_also_when_a_summary_ends_with_it(tmp_path):
    taken(opened(tmp_path), range(STEPS_A_PART))
    full = opened(tmp_path)
    full.record(STEPS_A_PART - 1, records(STEPS_A_PART - 1))
    assert full.rows == len(full)
    taken(full, [STEPS_A_PART])
    (tmp_path / "consumed.jsonl").unlink()  # a crash after the part was closed
    again = opened(tmp_path)
    again.record(STEPS_A_PART - 1, records(STEPS_A_PART - 1))
    assert (again.rows, again.doubled, again.steps) == (len(again), 0, STEPS_A_PART)


@pytest.mark.parametrize("summaries", ["lost", "of a part that is shorter now", "of a part that is not closed"])
def test_without_a_summary_that_fits_its_part_all_lines_are_read(tmp_path, lines_read, summaries):
    before = counts(taken(opened(tmp_path), range(STEPS_A_PART + 1)))
    path, part = tmp_path / "consumed_summaries.jsonl", tmp_path / "consumed.00001.jsonl"
    if summaries == "lost":
        path.unlink()
    elif summaries == "of a part that is shorter now":
        (line,) = read_json_lines(path)
        path.write_text(json.dumps({**line, "nbytes": line["nbytes"] + 1, "rows": 1000}) + "\n")
    else:
        part.write_bytes(part.read_bytes() + (tmp_path / "consumed.jsonl").read_bytes())
        part.rename(tmp_path / "consumed.jsonl")
    lines_read.clear()
    assert counts(opened(tmp_path)) == before
    assert len(lines_read) == before[3]


def test_a_summary_that_the_disk_does_not_take_costs_the_step_nothing(tmp_path, monkeypatch):
    consumed = taken(opened(tmp_path), range(STEPS_A_PART))
    with monkeypatch.context() as patch:
        patch.setattr(JsonLinesFile, "_write", failing_for(tmp_path / "consumed_summaries.jsonl", JsonLinesFile._write))
        taken(consumed, [STEPS_A_PART])
    before = counts(consumed)
    assert read_json_lines(tmp_path / "consumed_summaries.jsonl") == []
    assert counts(opened(tmp_path)) == before
    taken(consumed, range(STEPS_A_PART + 1, 2 * STEPS_A_PART + 1))
    assert [line["part"] for line in read_json_lines(tmp_path / "consumed_summaries.jsonl")] == [1, 2]


def failing_for(path, write):
    def failing(file, data):
        if file._path == path:
            raise OSError("no space left")
        write(file, data)

    return failing

"""The timeline has what each process did, when and for how long; no disk and no length of a run ends a run for it."""

import gzip
import json

import pytest

from unisd_rl.storage import timeline
from unisd_rl.storage.timeline import Activity, Span, Track, chrome_trace, write_timeline


def written(run):
    return json.loads(gzip.decompress(write_timeline(run).read_bytes()))


def of(track):
    track.flush()
    return [json.loads(line) for line in track._path.read_text().splitlines()]


def test_spans_are_complete_events_in_microseconds_from_the_first_one_on(tmp_path):
    driver, actor = Track(tmp_path, "driver"), Track(tmp_path, "rollout-10")
    Track(tmp_path, "learner-0").flush()
    driver.add("learning", 102.5, 0.25, step=3)
    actor.add("generation", 100.0, 4.0, version=2)
    actor.add("pause for new weights", 101.0, 0.5)
    for track in (driver, actor):
        track.flush()
    trace = written(tmp_path)
    assert trace["otherData"] == {"first_s": 100.0}
    names = {event["pid"]: event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "process_name"}
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert [(names[one["pid"]], one["name"], one["ts"], one["dur"], one["args"]) for one in spans] == [
        ("driver", "learning", 2.5e6, 0.25e6, {"step": 3}),
        ("rollout-10", "generation", 0.0, 4e6, {"version": 2}),
        ("rollout-10", "pause for new weights", 1e6, 0.5e6, {}),
    ]
    assert all(event["pid"] == event["tid"] for event in trace["traceEvents"]), "one track a process"


def test_the_driver_stands_first_then_the_learner_then_the_actors_by_their_number(tmp_path):
    for name in ("rollout-10", "rollout-9", "learner-1", "driver", "learner-0"):
        track = Track(tmp_path, name)
        track.add("a", 1.0, 1.0)
        track.flush()
    rows = [event for event in written(tmp_path)["traceEvents"] if event["name"] == "process_name"]
    assert [row["args"]["name"] for row in sorted(rows, key=lambda row: row["pid"])] == [
        "driver", "learner-0", "learner-1", "rollout-9", "rollout-10",
    ]  # fmt: skip


def test_a_block_is_a_span_also_where_it_fails(tmp_path):
    track = Track(tmp_path, "driver")
    with pytest.raises(KeyError), track.span("learning", step=1):
        raise KeyError
    (line,) = of(track)
    assert (line["name"], line["of"]) == ("learning", {"step": 1})
    assert 0.0 <= line["seconds"] < 60.0


def test_a_process_does_one_thing_at_a_time(tmp_path):
    track = Track(tmp_path, "rollout-0")
    activity = Activity(track)
    for name, at_s in (("waiting", 10.0), ("generation", 11.0), ("generation", 12.0), ("pause", 14.0)):
        activity.begin(name, at_s)
    activity.begin("generation", 13.0)  # a pause that ended before it began, by another clock
    activity.begin("waiting", 20.0)
    assert [(line["name"], line["started_s"], line["seconds"]) for line in of(track)] == [
        ("waiting", 10.0, 1.0), ("generation", 11.0, 3.0), ("pause", 14.0, 0.0), ("generation", 14.0, 6.0),
    ]  # fmt: skip


def test_what_is_going_on_is_written_as_far_as_it_is_and_goes_on(tmp_path, monkeypatch):
    now_s = iter((30.0, 40.0))
    monkeypatch.setattr(timeline.time, "time", lambda: next(now_s))
    track = Track(tmp_path, "rollout-0")
    activity = Activity(track)
    activity.begin("generation", 10.0, version=1)
    activity.flush()
    activity.flush()
    lines = of(track)
    assert [(line["name"], line["started_s"], line["seconds"]) for line in lines] == [
        ("generation", 10.0, 20.0), ("generation", 30.0, 10.0),
    ]  # fmt: skip
    assert {line["of"]["version"] for line in lines} == {1}


def test_of_a_long_run_the_newest_spans_are_drawn_and_a_line_cut_short_is_none(tmp_path, monkeypatch):
    track = Track(tmp_path, "driver")
    for step in range(100):
        track.add("learning", float(step), 1.0, step=step)
    track.flush()
    with track._path.open("a") as file:
        file.write('{"name":"lear')
    monkeypatch.setattr(timeline, "_MOST_BYTES", 1000)
    steps = [event["args"]["step"] for event in written(tmp_path)["traceEvents"] if event["ph"] == "X"]
    assert steps == list(range(steps[0], 100))
    assert 0 < len(steps) < 20


def test_a_disk_that_takes_nothing_costs_spans_and_nothing_else(tmp_path):
    (tmp_path / "timeline").write_text("no folder")
    track = Track(tmp_path, "driver")
    track.add("learning", 0.0, 1.0)
    track.flush()
    assert write_timeline(tmp_path) is None


def test_no_spans_make_an_empty_trace():
    assert chrome_trace({"driver": [Span("a", 5.0, 1.0, {})]})["traceEvents"][-1]["ts"] == 0.0
    assert [event["ph"] for event in chrome_trace({"driver": []})["traceEvents"]] == ["M", "M"]

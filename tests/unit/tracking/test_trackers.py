"""What a tracker's own reader finds is what metrics.jsonl has that counts; a tracker that fails costs nothing else."""

import json
import threading
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.fakes.run_folder import run_folder, step
from unisd_rl.config.load import load_recipe
from unisd_rl.reporting.record import RunRecord
from unisd_rl.tracking.build import trackers
from unisd_rl.tracking.names import grouped
from unisd_rl.tracking.tensorboard import markdown_table
from unisd_rl.tracking.tracker import RunInformation, Tracker, Trackers


def read_back(folder):
    """Name -> (step, number) of TensorBoard's own reader."""
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    reader.Reload()
    scalars = {name: [(event.step, event.value) for event in reader.Scalars(name)] for name in reader.Tags()["scalars"]}
    return scalars, reader


def tell(path, calls, events):
    told = trackers(load_recipe("unisd_star", {"tracking": {"to": ("tensorboard",)}}), path, events.append)
    for name, *arguments in calls:
        getattr(told, name)(*arguments)
    told.close(timeout_s=60.0)


def test_tensorboard_reads_what_counts_after_a_rollback_and_a_resume(tmp_path):
    first = [step(0), step(1), step(2, loss=9.0), step(3, loss=8.0)]
    second = [step(2, 1), step(3, 1, loss=7.0)]
    resumed = [step(3, 2), step(4, 2)]
    rollbacks = [{"lineage": 1, "step": 2, "steps_lost": 2}, {"lineage": 2, "step": 3, "steps_lost": 1}]
    path, events = run_folder(tmp_path / "run", [*first, *second, *resumed], rollbacks=rollbacks), []
    before = [
        ("begin", 0),
        *(("step", line) for line in first),
        ("begin", 2),
        *(("step", line) for line in second),
    ]
    tell(path, before, events)
    tell(path, [("begin", 3), *(("step", line) for line in resumed)], events)
    scalars, _ = read_back(path / "tensorboard")
    counts = RunRecord.at(path).rows
    assert [line["step"] for line in counts] == [0, 1, 2, 3, 4]
    for name, key in {
        "loss/loss": "loss",
        "timing/wait_s": "wait_s",
        "lineage": "lineage",
        "queue/tokens": "tokens",
    }.items():
        expected = [(line["step"] + 1, pytest.approx(line[key])) for line in counts]
        assert scalars[name] == expected, name
    assert events == []


def test_evaluations_stay_that_a_rollback_to_their_version_leaves(tmp_path):
    told = {"accuracy": 0.5, "interval": {"low": 0.25, "high": 0.75}, "retention": None}
    path, completions = run_folder(tmp_path / "run"), [("1+1|?", "Answer: `2`\n\ud83d", "right")]
    calls = [("begin", 0), ("evaluation", 2, told, completions), ("evaluation", 4, told, ()), ("begin", 2)]
    tell(path, calls, [])
    scalars, reader = read_back(path / "tensorboard")
    assert scalars["evaluation/accuracy"] == [(2, 0.5)]
    assert scalars["evaluation/interval/low"] == [(2, 0.25)]
    texts = {name: reader.Tensors(name)[0].tensor_proto.string_val[0].decode() for name in reader.Tags()["tensors"]}
    assert (path / "config.toml").read_text() in texts["configuration"]
    assert "'Answer: '2'\\n?'" in texts["evaluation/completions"].replace('"', "'")


def test_cells_of_a_table_cannot_end_it():
    header, rule, row = markdown_table(("a", "b"), [("1+1|?", "Answer: `2`\n")]).splitlines()
    assert (header, rule) == ("| a | b |", "| ---|--- |")
    assert row.count("|") == 3
    assert row.count("`") == 4


def test_names_are_grouped_by_the_part_of_the_step_report():
    line = {"step": 3, "lineage": 1, "loss": 1.0, "weight_mean": 0.5, "staleness_mean": 0.0, "primary_s": 2.0,
            "primary_tokens": 7, "own_margin": 0.1, "actor_idle": None, "depth": 2}  # fmt: skip
    assert json.dumps(sorted(grouped(line))) == json.dumps(
        sorted(
            ["step", "lineage", "loss/loss", "views/weight_mean", "actors/staleness_mean", "timing/primary_s",
             "timing/primary_tokens", "loss/own_margin", "queue/depth"]
        )
    )  # fmt: skip


class Broken(Tracker):
    def begin(self, version, information): ...

    def numbers(self, version, numbers):
        raise OSError("no network")

    def event(self, event): ...


class Counting(Broken):
    def __init__(self, seen):
        self.seen = seen

    def begin(self, version, information):
        self.seen.append(information.command)

    def numbers(self, version, numbers):
        self.seen.append(version)

    def close(self, failed):
        self.seen.append("failed" if failed else "closed")


def no_information():
    return RunInformation({}, "", "run", None)


def test_a_tracker_that_fails_is_reported_once_and_the_others_go_on():
    seen, events = [], []
    told = Trackers({"broken": Broken, "counting": lambda: Counting(seen)}, no_information, events.append)
    told.begin(0)
    for number in range(3):
        told.step(step(number))
    told.close(timeout_s=60.0)
    assert seen == ["run", 1, 2, 3, "closed"]
    assert [event.reason for event in events] == ["broken is told nothing more: OSError('no network')"]


def test_a_tracker_learns_how_the_run_ended():
    seen = []
    Trackers({"counting": lambda: Counting(seen)}, no_information, print).close(failed=True, timeout_s=60.0)
    assert seen == ["failed"]


def test_a_tracker_that_hangs_slows_no_step_nor_another_tracker_and_is_left_behind_at_the_end():
    release, all_counted, seen, events = threading.Event(), threading.Event(), [], []

    class Last(Counting):
        def numbers(self, version, numbers):
            super().numbers(version, numbers)
            if version == 900:
                all_counted.set()

    def hangs():
        release.wait(60)
        return Counting([])

    told = Trackers({"slow": hangs, "quick": lambda: Last(seen)}, no_information, events.append)
    for number in range(900):
        told.step(step(number))
    assert all_counted.wait(60)
    for number in range(900, 2000):
        told.step(step(number))
    told.close(timeout_s=0.05)
    assert [thread.daemon for thread in threading.enumerate() if thread.name == "tracking-slow"] == [True]
    release.set()
    assert seen[:900] == list(range(1, 901))
    slow = [event.reason for event in events if event.reason.startswith("slow")]
    assert slow == [
        "slow is 1000 steps behind: it lacks some",
        "slow did not take everything in the 0.05 s that it had at the end",
    ]


def test_a_tracker_that_was_left_behind_is_let_go_of_and_says_nothing_after_the_run():
    release, events = threading.Event(), []

    def fails_late():
        release.wait(60)
        raise OSError("connection reset")

    abandoned = []
    abandon = {"late": lambda: abandoned.append("late"), "quick": lambda: abandoned.append("quick")}
    told = Trackers({"late": fails_late, "quick": lambda: Counting([])}, no_information, events.append, abandon)
    told.step(step(0))
    told.close(timeout_s=0.2)
    assert abandoned == ["late"]
    (left,) = (thread for thread in threading.enumerate() if thread.name == "tracking-late")
    release.set()
    left.join(60)
    assert [event.reason for event in events] == ["late did not take everything in the 0.2 s that it had at the end"]


def test_a_tracker_that_only_writes_to_the_disk_is_waited_for_longer_than_a_server():
    opened, written, said, abandoned = threading.Event(), threading.Event(), [], []

    class WritesSlowly(Counting):
        waits_for_a_server = False

        def numbers(self, version, numbers):
            opened.set()

        def close(self, failed):
            time.sleep(0.3)
            written.set()

    told = Trackers({"disk": lambda: WritesSlowly([])}, no_information, said.append, {"disk": abandoned.append})
    told.step(step(0))
    assert opened.wait(60)
    told.close(timeout_s=0.05)
    assert written.is_set()
    assert (said, abandoned) == ([], [])

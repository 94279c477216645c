"""Reading what a run left behind, for the tests that recompute its claims."""

import contextlib
import functools
import gzip
import json
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.job import Job
from tests.fakes.tracker_readers import curves
from unisd_rl.reporting.record import RunRecord
from unisd_rl.storage.rolling import open_parts

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT_S = 540


@dataclass(frozen=True)
class FinishedRun:
    """The folder of a run, and what its process printed."""

    path: Path
    output: str

    @property
    def summary(self) -> dict:
        return json.loads((self.path / "summary.json").read_text())

    @property
    def metrics(self) -> list[dict]:
        return lines(self.path / "metrics.jsonl")

    @property
    def consumed(self) -> list[dict]:
        return lines(self.path / "consumed.jsonl")

    @property
    def rollbacks(self) -> list[dict]:
        path = self.path / "lineages.jsonl"
        return lines(path) if path.exists() else []

    @property
    def events(self) -> list[dict]:
        path = self.path / "events.jsonl"
        return lines(path) if path.exists() else []

    @property
    def surviving(self) -> list[dict]:
        """The consumed lines that count: of each step those of the lineage that trained it last, in order."""
        owner: dict[int, int] = {}
        for lineage, start in [(0, 0), *((fall["lineage"], fall["step"]) for fall in self.rollbacks)]:
            owner = {step: before for step, before in owner.items() if step < start}
            owner |= {row["step"]: lineage for row in self.consumed if row["learner_lineage"] == lineage}
        return [row for row in self.consumed if owner.get(row["step"]) == row["learner_lineage"]]

    @property
    def stored(self) -> list[int]:
        """Prompt numbers of all commits in the ledger, doubles included."""
        return [number for numbers in self.commits for number in numbers]

    @property
    def commits(self) -> list[list[int]]:
        """Prompt numbers of each commit in the ledger. So short a run compacts nothing."""
        index = sorted((self.path / "rollouts" / "index").iterdir())
        whole = [line for file in index for line in file.read_text().rpartition("\n")[0].splitlines()]
        return [json.loads(line)["numbers"] for line in whole]

    def answers(self, step: int) -> list[dict]:
        return lines(self.path / "evaluations" / f"step-{step}.jsonl")

    def evaluation(self, step: int) -> dict:
        return json.loads((self.path / "evaluations" / f"step-{step}.json").read_text())

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step}"


def lines(path: Path) -> list[dict]:
    """Of all parts of a file."""
    return [json.loads(line) for _, file in open_parts(path) for line in file.read().splitlines()]


def start_job(folder: Path, *arguments: str, **environment: str) -> Job:
    """`python -m unisd_rl.run` in a process of its own; both its streams come through one pipe.

    Without a recipe among the arguments it is `unisd_star`, apart: what both sides at work at once may do to each other
    is what most tests are about.
    """
    recipe = () if arguments and not arguments[0].startswith("-") else ("unisd_star",)
    return Job("unisd_rl.run", *recipe, *arguments, "--run.dir", folder, "--run.name", "run", **environment)


def resume_job(folder: Path, *arguments: str, **environment: str) -> Job:
    """`--resume` of the run that `start_job` began in `folder`."""
    return Job("unisd_rl.run", "--resume", folder / "run", *arguments, **environment)


def run_job(folder: Path, *arguments: str) -> FinishedRun:
    """The job to its end; fails with what it printed."""
    return finished(folder, start_job(folder, *arguments))


def finished(
    folder: Path, running: Job | subprocess.Popen[str], seen: str = "", timeout_s: float = TIMEOUT_S
) -> FinishedRun:
    """The run once its job has ended well; `seen` is what was read of its output before."""
    output = seen + running.communicate(timeout=timeout_s)[0]
    assert running.returncode == 0, f"exit code {running.returncode}\n{output[-4000:]}"
    return FinishedRun(folder / "run", output)


def process_of(log: Path) -> int:
    """The id of the process whose standard output goes to this log of a run."""
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdecimal() and (process / "fd" / "1").readlink() == log:
                return int(process.name)
    raise AssertionError(f"no process writes to {log}")


def read_until(running: Job, start: str) -> str:
    """What the job prints, up to a line that starts so."""
    seen = ""
    for line in running.stdout:
        seen += line
        if line.startswith(start):
            return seen
    raise AssertionError(f"the job ended before {start!r}:\n{seen}")


def assert_people_see_what_counts(run: FinishedRun, trackers: Sequence[str] = ("tensorboard",)) -> None:
    """Each tracker's own reader has the numbers of the steps that count; the page is there, with tokens of the run."""
    counts = RunRecord.at(run.path)
    for tracker in trackers:
        read = curves(tracker, run.path)
        for name, key in {"loss/loss": "loss", "lineage": "lineage", "timing/wait_s": "wait_s"}.items():
            expected = {row["step"] + 1: row[key] for row in counts.rows}
            assert read[name].keys() == expected.keys(), (tracker, name)
            told = [(read[name][version], number) for version, number in expected.items()]
            assert all(abs(one - other) <= 1e-6 * abs(other) for one, other in told), (tracker, name)
    assert counts.samples
    consumed = {row["prompt"]: row for row in run.surviving}
    for sample in counts.samples:
        assert (consumed[sample["number"]]["step"], consumed[sample["number"]]["tokens"]) == (
            sample["step"],
            sample["length"],
        )
    page = (run.path / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "samples-data" in page


def assert_the_timeline_is_the_runs(run: FinishedRun) -> None:
    """Spans of each process lie within or beside each other, and are as long as metrics.jsonl says (one rank)."""
    trace = json.loads(gzip.decompress((run.path / "timeline.json.gz").read_bytes()))
    names = {event["pid"]: event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "process_name"}
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    for process, name in names.items():
        assert_nested([(one["ts"], one["ts"] + one["dur"]) for one in spans if one["pid"] == process], name)

    def seconds(process: str, name: str, **of: int) -> float:
        found = [one for one in spans if names[one["pid"]] == process and one["name"] == name]
        return sum(one["dur"] for one in found if of.items() <= one["args"].items()) / 1e6

    for row in run.metrics:
        step, lineage = row["step"], row["lineage"]
        close = functools.partial(pytest.approx, abs=0.05)
        assert seconds("driver", "waiting for rollouts", step=step) == close(row["wait_s"])
        assert seconds("driver", "learning", step=step) == close(row["learn_s"])
        for part in ("primary", "auxiliary", "negative", "gradient", "update"):
            assert seconds("learner-0", part, step=step) == close(row[f"{part}_s"]), (step, part)
        assert 0 < seconds("learner-0", "step", step=step, lineage=lineage) <= row["learn_s"] + 0.05
    actors = [name for name in names.values() if name.startswith("rollout-")]
    assert len(run.metrics) - 1 <= len([one for one in spans if one["name"] == "pause for new weights"]) / len(actors)
    for actor in actors:
        assert seconds(actor, "generation") > 0
        assert seconds(actor, "evaluation") > 0


def assert_nested(spans: Sequence[tuple[float, float]], track: str) -> None:
    """Ordered by their beginnings, the longer first, each ends before what it began in does."""
    open_ends: list[float] = []
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        while open_ends and open_ends[-1] <= start + 500.0:  # half a millisecond: two clocks
            open_ends.pop()
        assert not open_ends or end <= open_ends[-1] + 500.0, track
        open_ends.append(end)


def assert_every_prompt_exactly_once_and_in_order(run: FinishedRun, steps: int, batch_size: int) -> None:
    """In the steps that count, and nothing was generated twice."""
    numbers = [row["prompt"] for row in run.surviving]
    assert numbers == list(range(steps * batch_size))
    assert [row["step"] for row in run.surviving] == [number // batch_size for number in numbers]
    stored = run.stored
    assert len(set(stored)) == len(stored)
    assert set(numbers) <= set(stored)
    assert run.summary["queue"]["consumed"] == len(numbers)
    assert run.summary["queue"]["lost"] == 0
    assert run.summary["queue"]["duplicated"] == 0


def assert_groups_are_whole(run: FinishedRun, answers: int) -> None:
    """The answers to a prompt are of one problem, one actor and one commit; nothing was quarantined."""
    groups: dict[int, list[dict]] = {}
    for row in run.surviving:
        groups.setdefault(row["prompt"] // answers, []).append(row)
    for rows in groups.values():
        assert len(rows) == answers
        assert len({(row["id"], row["actor"], row["step"]) for row in rows}) == 1
    for numbers in run.commits:
        assert sorted(numbers) == sorted(
            group * answers + place for group in {n // answers for n in numbers} for place in range(answers)
        )


def assert_staleness_within(run: FinishedRun, bound: int) -> None:
    staleness = [row["step"] - row["oldest"] for row in run.surviving]
    assert min(staleness) >= 0 or run.rollbacks  # rows of a lineage that had gone further are fed again
    assert max(staleness) <= bound
    assert max(staleness) == run.summary["queue"]["max_staleness_seen"]


def assert_accuracy_is_what_its_items_say(run: FinishedRun) -> None:
    for step, name in ((0, "before"), (run.summary["steps"], "after")):
        answers = run.answers(step)
        assert len({answer["id"] for answer in answers}) == len(answers) == run.summary[name]["problems"]
        assert sum(answer["correct"] for answer in answers) / len(answers) == run.summary[name]["accuracy"]


def assert_agreement_acts(rows: list[dict]) -> None:
    """The weights of most steps differ, and most of the batch still counts.

    By numbers that can be otherwise: the 5th percentile is 1 / (1 + gamma) whatever the views say.
    """
    assert 0.5 <= statistics.median(row["effective_sample_size"] for row in rows) <= 0.99
    assert 0.3 <= statistics.median(row["weight_mean"] for row in rows) <= 0.98
    assert 0.0 < statistics.mean(row["weight_below_half"] for row in rows) <= 0.7

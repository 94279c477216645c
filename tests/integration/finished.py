"""Reading what a run left behind, for the tests that recompute its claims."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

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

    def answers(self, step: int) -> list[dict]:
        return lines(self.path / "evaluations" / f"step-{step}.jsonl")

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step}"


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def start_job(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """`python -m unisd_rl.run` in a process of its own; both its streams come through one pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", "unisd_rl.run", *arguments, "--run.dir", str(folder), "--run.name", "run"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
    )


def run_job(folder: Path, *arguments: str) -> FinishedRun:
    """The job to its end; fails with what it printed."""
    running = start_job(folder, *arguments)
    output = running.communicate(timeout=TIMEOUT_S)[0]
    assert running.returncode == 0, f"exit code {running.returncode}\n{output[-4000:]}"
    return FinishedRun(folder / "run", output)


def read_until(running: subprocess.Popen[str], start: str) -> str:
    """What the job prints, up to a line that starts so."""
    assert running.stdout is not None
    seen = ""
    for line in running.stdout:
        seen += line
        if line.startswith(start):
            return seen
    raise AssertionError(f"the job ended before {start!r}:\n{seen}")


def assert_every_prompt_exactly_once_and_in_order(run: FinishedRun, steps: int, batch_size: int) -> None:
    numbers = [row["prompt"] for row in run.consumed]
    assert numbers == list(range(steps * batch_size))
    assert [row["step"] for row in run.consumed] == [number // batch_size for number in numbers]
    assert run.summary["rollouts_consumed"] == len(numbers)
    assert run.summary["rollouts_lost"] == 0
    assert run.summary["rollouts_duplicated"] == 0


def assert_staleness_within(run: FinishedRun, bound: int) -> None:
    staleness = [row["step"] - row["oldest"] for row in run.consumed]
    assert min(staleness) >= 0
    assert max(staleness) <= bound
    assert max(staleness) == run.summary["max_staleness_seen"]


def assert_accuracy_is_what_its_items_say(run: FinishedRun) -> None:
    for step, name in ((0, "accuracy_before"), (run.summary["steps"], "accuracy_after")):
        answers = run.answers(step)
        assert len({answer["id"] for answer in answers}) == len(answers) == run.summary["eval_examples"]
        assert sum(answer["correct"] for answer in answers) / len(answers) == run.summary[name]

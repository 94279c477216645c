"""What it costs that people can see a run: `python -m benchmarks.observing --json FILE`.

A short run of the default recipe in one process gives real lines, answers and spans, and the seconds of its quickest
step. Its lines are then told again, each part alone, in a process where nothing else computes:

    trackers     each that is installed: `--steps` lines, an evaluation with a table, the end
    timeline     the spans of a step, written as a learner rank writes them; then timeline.json.gz
    report       report.html of that run

Two lengths are told in turns, `--repeats` times, and medians taken: the difference is what a step costs, the rest is
paid once. Counted is the processor time of this process, all its threads; the service that W&B's library starts is not
in it, nor what the learner computes for the tokens of samples.jsonl.
`a_step.*` is the share of the quickest step that a part takes, `end_s` the seconds of what follows the last step.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.output import finish, machine, result_file, show_table
from unisd_rl.config import Config
from unisd_rl.config.load import load_recipe
from unisd_rl.reporting.page import write_report
from unisd_rl.reporting.record import RunRecord
from unisd_rl.storage.timeline import Track, write_timeline
from unisd_rl.tracking.build import trackers

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
SPANS = 10  # of a learner rank in a step; driver and actors have fewer
_RUN = ("unisd_star", "in_process", "--run.steps", "12", "--task.eval_examples", "64", "--tracking.to", "[]")
_ANSWERS = [("how much is 1 + 1?", "1+1=2\nAnswer: 2", "right")] * 16

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One part: processor seconds of a step, the share of the quickest step, and seconds paid once."""

    part: str
    step_ms: float
    share: float
    once_s: float


def main(repeats: int, steps: int, file: Path | None) -> None:
    """Measure and tell."""
    found_on = machine(repeats=repeats, steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        run = _finished_run(Path(folder))
        lines = RunRecord.at(run).rows
        quickest_s = min(line["wait_s"] + line["learn_s"] + line["publish_s"] for line in lines)
        numbers = (Path(folder) / str(number) for number in count())
        parts: dict[str, Callable[[int], None]] = {
            name: partial(_tell, name, numbers, lines) for name in TRACKERS if find_spec(name)
        }
        parts["timeline"] = _spans(numbers)
        rows = [_row(part, work, quickest_s, steps, repeats) for part, work in parts.items()]
        once = {"timeline.json.gz": partial(write_timeline, run), "report.html": partial(write_report, run)}
        rows += [Row(name, 0.0, 0.0, median(_cpu_s(work) for _ in range(repeats))) for name, work in once.items()]
    title = f"beside steps of {quickest_s:.2f} s"
    show_table(title, ("part", "ms a step", "share of a step", "s once"), [tuple(asdict(row).values()) for row in rows])
    ratios = {f"a_step.{row.part}": row.share for row in rows if row.step_ms}
    by_default = [row for row in rows if row.part not in TRACKERS[1:]]
    ratios["a_step.by_default"] = sum(row.share for row in by_default)
    ratios["end_s.by_default"] = sum(row.once_s for row in by_default)
    finish(found_on, [asdict(row) for row in rows], ratios, file)


def _finished_run(folder: Path) -> Path:
    words = [sys.executable, "-m", "unisd_rl.run", *_RUN, "--run.dir", str(folder), "--run.name", "run"]
    subprocess.run(words, check=True, timeout=1200, stdout=subprocess.DEVNULL)
    return folder / "run"


def _row(part: str, work: Callable[[int], None], quickest_s: float, steps: int, repeats: int) -> Row:
    work(1)  # imports
    short, long = steps // 10, steps
    pairs = [(_cpu_s(partial(work, short)), _cpu_s(partial(work, long))) for _ in range(repeats)]
    step_s = median((more - less) / (long - short) for less, more in pairs)
    once_s = median(less - short * step_s for less, _ in pairs)
    return Row(part, 1e3 * step_s, step_s / quickest_s, once_s)


def _tell(name: str, folders: Iterator[Path], lines: Sequence[Line], steps: int) -> None:
    """A run of so many steps, as the driver tells it."""
    folder = next(folders)
    folder.mkdir()
    config = load_recipe("unisd_star", {"tracking": {"to": (name,)}})
    told = _trackers(config, folder)
    told.begin(0)
    for step in range(steps):
        told.step({**lines[step % len(lines)], "step": step})
    told.evaluation(steps, {"accuracy": 0.5, "interval": {"low": 0.4, "high": 0.6}}, _ANSWERS)
    told.close(timeout_s=120.0)


def _trackers(config: Config, folder: Path) -> Any:
    (folder / "config.toml").write_text("", encoding="utf-8")

    def refuse(event: object) -> None:
        raise AssertionError(event)

    return trackers(config, folder, refuse)


def _spans(folders: Iterator[Path]) -> Callable[[int], None]:
    def write(steps: int) -> None:
        track = Track(next(folders), "learner-0")
        for step in range(steps):
            for _ in range(SPANS):
                track.add("gradient", time.time(), 0.1, step=step)
            track.flush()

    return write


def _cpu_s(work: Callable[[], object]) -> float:
    """Of this process and of those that have ended in it."""
    before = _spent_s()
    work()
    return _spent_s() - before


def _spent_s() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500, help="of the longer of the two lengths")
    parser.add_argument("--json", type=result_file, metavar="FILE")
    options = parser.parse_args()
    os.environ["WANDB_MODE"] = "offline"
    main(options.repeats, options.steps, options.json)

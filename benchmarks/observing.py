"""What it costs that people can see a run: `python -m benchmarks.observing --json FILE`.

    runs     the default recipe in one process, all there is to see of it against none of it (`observed_run`), in turns
    parts    each part alone, in a process where nothing else computes, told the lines of such a run again:
             trackers     each that is installed: `--steps` lines, an evaluation with a table, the end (Prometheus's
                          gauges in a Ray of this process)
             timeline     the spans of a step, written as a learner rank writes them; then timeline.json.gz
             report       report.html of that run

Counted is processor time, of all threads: other work on the machine then matters little. Of `runs` it is that of the
steps with the evaluation between them, and `end_s` the seconds that the end waits for those who look. Both runs of a
pair train on the same tokens and have to end with the same loss; what is imported once is paid before the first of
them. Of `parts` two lengths are told in turns, `--repeats` times, and medians taken: the difference is what a step
costs, the rest is paid once; the service that W&B's library starts is not in it. `a_step.*` is the share of a step that
a part takes, in `parts` of the quickest one.
"""

import argparse
import json
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

import ray

from benchmarks.output import finish, machine, result_file, show_table
from unisd_rl.config import Config
from unisd_rl.config.load import load_recipe
from unisd_rl.reporting.page import write_report
from unisd_rl.reporting.record import RunRecord
from unisd_rl.storage.timeline import Track, write_timeline
from unisd_rl.tracking.build import trackers

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio", "prometheus")  # the last one leaves Ray's threads at work
_LIBRARIES = {"prometheus": "ray"}
SPANS = 10  # of a learner rank in a step; driver and actors have fewer
_RUN = ("unisd_star", "in_process", "--task.eval_examples")
_STEPS_OF_PARTS = 12
_ANSWERS = [("how much is 1 + 1?", "1+1=2\nAnswer: 2", "right")] * 16

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One part: processor seconds of a step, the share of the quickest step, and seconds paid once."""

    part: str
    step_ms: float
    share: float
    once_s: float


@dataclass(frozen=True)
class Pair:
    """A run that is seen beside the same run unseen: processor seconds of their steps, and what the end waits for."""

    unseen_s: float
    seen_s: float
    share: float
    end_s: float
    end_cpu_s: float


def main(options: argparse.Namespace) -> None:
    """Measure and tell."""
    found_on = machine(**{name: value for name, value in vars(options).items() if isinstance(value, int)})
    rows: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    for part in options.part:
        more_rows, more_ratios = PARTS[part](options)
        rows, ratios = rows + more_rows, ratios | more_ratios
    finish(found_on, rows, ratios, options.json)


def compare_runs(options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Pairs of runs."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pairs.json"
        words = (*_RUN, "16", "--run.steps", str(options.run_steps), "--run.checkpoint_every", "0")
        words += ("--evaluation.every", str(options.run_steps // 2), "--learner.batch_size", str(options.run_batch))
        _call("benchmarks.observed_run", str(file), folder, str(options.pairs), *words)
        pairs = [_pair(**costs) for costs in json.loads(file.read_text(encoding="utf-8"))]
    title = f"{options.run_steps} steps of {options.run_batch} answers, the default recipe in one process"
    columns = ("unseen, CPU s", "seen, CPU s", "share", "end waits s", "of it CPU s")
    show_table(title, columns, [tuple(asdict(pair).values()) for pair in pairs])
    ratios = {"a_step.run": median(pair.share for pair in pairs), "end_s.run": max(pair.end_s for pair in pairs)}
    return [{"part": "run", **asdict(pair)} for pair in pairs], ratios


def _pair(seen: Mapping[str, float], unseen: Mapping[str, float]) -> Pair:
    share = seen["steps_cpu_s"] / unseen["steps_cpu_s"] - 1
    return Pair(unseen["steps_cpu_s"], seen["steps_cpu_s"], share, seen["end_s"], seen["end_cpu_s"])


def _call(*words: str) -> None:
    subprocess.run([sys.executable, "-m", *words], check=True, timeout=3600, stdout=subprocess.DEVNULL)


def measure_parts(options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Each part alone."""
    with tempfile.TemporaryDirectory() as folder:
        words = (*_RUN, "64", "--run.steps", str(_STEPS_OF_PARTS), "--run.dir", folder, "--run.name", "run")
        _call("unisd_rl.run", *words, "--tracking.to", "[]")
        run = Path(folder) / "run"
        lines = RunRecord.at(run).rows
        quickest_s = min(line["wait_s"] + line["learn_s"] + line["publish_s"] for line in lines)
        numbers = (Path(folder) / str(number) for number in count())
        parts: dict[str, Callable[[int], None]] = {"timeline": _spans(numbers)}
        parts |= {
            name: partial(_tell, name, numbers, lines) for name in TRACKERS if find_spec(_LIBRARIES.get(name, name))
        }
        once = {"timeline.json.gz": partial(write_timeline, run), "report.html": partial(write_report, run)}
        rows = [
            Row(name, 0.0, 0.0, median(_cpu_s(work) for _ in range(options.repeats))) for name, work in once.items()
        ]
        rows += [_row(part, work, quickest_s, options.steps, options.repeats) for part, work in parts.items()]
    title = f"beside steps of {quickest_s:.2f} s"
    show_table(title, ("part", "ms a step", "share of a step", "s once"), [tuple(asdict(row).values()) for row in rows])
    ratios = {f"a_step.{row.part}": row.share for row in rows if row.step_ms}
    by_default = [row for row in rows if row.part not in TRACKERS[1:]]
    ratios["a_step.by_default"] = sum(row.share for row in by_default)
    ratios["end_s.by_default"] = sum(row.once_s for row in by_default)
    return [asdict(row) for row in rows], ratios


PARTS = {"runs": compare_runs, "parts": measure_parts}


def _row(part: str, work: Callable[[int], None], quickest_s: float, steps: int, repeats: int) -> Row:
    work(1)  # imports
    short, long = steps // 10, steps
    pairs = [(_cpu_s(partial(work, short)), _cpu_s(partial(work, long))) for _ in range(repeats)]
    step_s = median((more - less) / (long - short) for less, more in pairs)
    once_s = median(less - short * step_s for less, _ in pairs)
    return Row(part, 1e3 * step_s, step_s / quickest_s, once_s)


def _tell(name: str, folders: Iterator[Path], lines: Sequence[Line], steps: int) -> None:
    """A run of so many steps, as the driver tells it."""
    if name == "prometheus" and not ray.is_initialized():
        ray.init(address="local", include_dashboard=False, num_cpus=1, log_to_driver=False)
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
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--pairs", type=int, default=3, help="of runs")
    parser.add_argument("--run-steps", type=int, default=40, help="of each run of a pair")
    parser.add_argument("--run-batch", type=int, default=32, help="answers of a step of such a run")
    parser.add_argument("--repeats", type=int, default=5, help="of each part")
    parser.add_argument("--steps", type=int, default=500, help="of the longer of the two lengths of a part")
    parser.add_argument("--json", type=result_file, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="one pair of two steps, each part once")
    given = parser.parse_args()
    if given.quick:
        given.pairs, given.run_steps, given.run_batch, given.repeats, given.steps = 1, 2, 8, 1, 20
    os.environ["WANDB_MODE"] = "offline"
    main(given)

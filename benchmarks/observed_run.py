"""Pairs of one run, in this process, seen by people in every way and in none: `python -m benchmarks.observed_run`.

Unseen, a run writes no page, timeline or samples, measures no tokens for them and tells no tracker. A short run that is
seen comes first: it imports and compiles what is paid once. WORDS are of `unisd_rl.run` and say `run.placement =
"in_process"`; FILE gets a list of pairs of `Cost` as JSON.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from unisd_rl import run, train
from unisd_rl.driver.report_writer import ReportWriter
from unisd_rl.driver.sample_recorder import SampleRecorder
from unisd_rl.reporting.record import RunRecord
from unisd_rl.storage.timeline import Track
from unisd_rl.tracking.tracker import Trackers


@dataclass(frozen=True)
class Cost:
    """Processor seconds are those of all threads."""

    steps_cpu_s: float
    """Of the steps, with the evaluations and checkpoints between them."""
    end_cpu_s: float
    """While the end of the run waits for the page, the timeline and the trackers."""
    end_s: float
    """How long it waits for them."""
    loss: float
    """Of the last step."""


class Meter:
    """Seconds spent in some functions; one that another of them calls is counted once."""

    def __init__(self) -> None:
        self.cpu_s = self.wall_s = 0.0
        self._counting = False

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, metered."""

        @wraps(function)
        def metered(*given: Any, **named: Any) -> Any:
            if self._counting:
                return function(*given, **named)
            self._counting, cpu_s, wall_s = True, time.process_time(), time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                self.cpu_s += time.process_time() - cpu_s
                self.wall_s += time.perf_counter() - wall_s
                self._counting = False

        return metered


_NO_TRACKER = ("--tracking.to", "[]")
_WARM_UP_STEPS = ("--run.steps", "2")


def main(file: Path, folder: Path, pairs: int, words: Sequence[str]) -> None:
    """Run them; which of the two comes first changes from pair to pair."""
    one_run(True, folder, "warm-up", (*words, *_WARM_UP_STEPS))
    found = []
    for number in range(pairs):
        order = (True, False) if number % 2 else (False, True)
        costs = {seen: one_run(seen, folder, f"{number}-{seen}", words) for seen in order}
        assert costs[True].loss == costs[False].loss, f"to be seen changed the training: {costs}"
        found.append({"seen": asdict(costs[True]), "unseen": asdict(costs[False])})
        file.write_text(json.dumps(found), encoding="utf-8")


def one_run(seen: bool, folder: Path, name: str, words: Sequence[str]) -> Cost:
    """What one of them cost."""
    steps, end = Meter(), Meter()
    with ExitStack() as stack:
        if not seen:
            for kind, method in ((ReportWriter, "start"), (ReportWriter, "finish"), (Track, "add"), (Track, "flush")):
                stack.enter_context(replaced(kind, method, _nothing))
            stack.enter_context(replaced(SampleRecorder, "numbers", lambda self, step: frozenset()))
        stack.enter_context(replaced(train, "train_steps", steps.around(train.train_steps)))
        for kind, method in ((ReportWriter, "finish"), (ReportWriter, "close"), (Trackers, "close")):
            stack.enter_context(replaced(kind, method, end.around(getattr(kind, method))))
        told = () if seen else _NO_TRACKER
        code = run.main([*words, *told, "--run.dir", str(folder), "--run.name", name])
    assert code == 0, f"run {name} ended with {code}"
    return Cost(steps.cpu_s, end.cpu_s, end.wall_s, RunRecord.at(folder / name).rows[-1]["loss"])


@contextmanager
def replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    """An attribute that is another one in this block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _nothing(*given: object, **named: object) -> None:
    """What an unseen run does for those who look at it."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("folder", type=Path, help="where the runs go")
    parser.add_argument("pairs", type=int)
    options, others = parser.parse_known_args()
    main(options.file, options.folder, options.pairs, others)

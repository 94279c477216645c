"""One run in this process, seen by people in every way or in none: `python -m benchmarks.observed_run seen FILE WORDS`.

`unseen` writes no page, timeline or samples, and measures no tokens for them. WORDS are of `unisd_rl.run`: they say
the trackers, and `run.placement = "in_process"`. FILE gets a `Cost` as JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from unisd_rl import run, train
from unisd_rl.driver.report_writer import ReportWriter
from unisd_rl.driver.sample_recorder import SampleRecorder
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


def main(seen: bool, file: Path, words: list[str]) -> int:
    """Run it; returns the exit code of the run."""
    if not seen:
        _hide()
    steps, end = Meter(), Meter()
    train.train_steps = steps.around(train.train_steps)
    for kind, name in ((ReportWriter, "finish"), (ReportWriter, "close"), (Trackers, "close")):
        setattr(kind, name, end.around(getattr(kind, name)))
    code = run.main(words)
    file.write_text(json.dumps(asdict(Cost(steps.cpu_s, end.cpu_s, end.wall_s))), encoding="utf-8")
    return code


def _hide() -> None:
    for kind, name in ((ReportWriter, "start"), (ReportWriter, "finish"), (Track, "add"), (Track, "flush")):
        setattr(kind, name, _nothing)
    SampleRecorder.numbers = lambda self, step: frozenset()  # type: ignore[method-assign]


def _nothing(*given: object, **named: object) -> None:
    """What an unseen run does for those who look at it."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("how", choices=("seen", "unseen"))
    parser.add_argument("file", type=Path)
    options, others = parser.parse_known_args()
    sys.exit(main(options.how == "seen", options.file, others))

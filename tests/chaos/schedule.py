"""Faults at random moments, told by a seed: each kind once, then more of any; now and then two at a time.

The next one comes when the run has mended the last: all actors serve, and a step was taken since.
"""

import random
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tests.chaos.fault import ChaosFault
from tests.chaos.run import POLL_S, ChaoticRun, RunEnded

MEND_S = 600.0
READY_S = 600.0
LONGEST_PAUSE_S = 4.0
TWO_AT_ONCE = 0.2  # share of the moments at which two strike

Kind = type[ChaosFault]


@dataclass(frozen=True)
class Moment:
    """So many seconds after the run is well again, these strike."""

    pause_s: float
    kinds: tuple[Kind, ...]

    def __str__(self) -> str:
        return " + ".join(kind.__name__ for kind in self.kinds)


@dataclass(frozen=True)
class Struck:
    """A fault that was mended, and the seconds from the strike until the run was well."""

    kind: str
    victim: str
    step: int
    seconds: float


@dataclass
class Chaos:
    """A seeded schedule, and what came of it."""

    seed: int
    kinds: Sequence[Kind]
    count: int
    struck: list[Struck] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        more = self.random.choices(self.kinds, k=self.count - len(self.kinds))
        ordered = self.random.sample([*self.kinds, *more], k=self.count)
        self.moments = []
        while ordered:
            pair = self.random.random() < TWO_AT_ONCE and len({kind.family for kind in ordered[:2]}) == 2
            taken, ordered = ordered[: 1 + pair], ordered[1 + pair :]
            last_driver = tuple(sorted(taken, key=lambda kind: kind.family == "driver"))
            self.moments.append(Moment(self.random.uniform(0.0, LONGEST_PAUSE_S), last_driver))

    def __str__(self) -> str:
        done = len(self.struck)
        return f"seed {self.seed}, {done} of {self.count} faults mended; {'; '.join(map(str, self.moments))}"

    def play(self, run: ChaoticRun) -> None:
        """Strike at every moment; returns when the last fault is mended, or the run has come to its end."""
        with suppress(RunEnded):
            for number, moment in enumerate(self.moments):
                _well(run, len(run.metrics), f"the run is well before moment {number}, {moment}")
                _wait(moment.pause_s)
                self._play(run, moment)

    def _play(self, run: ChaoticRun, moment: Moment) -> None:
        faults = [kind(run, self.random) for kind in moment.kinds]
        for fault in faults:
            run.until(fault.ready, f"{fault.kind()} can strike", READY_S)
        step = run.metrics[-1]["step"]
        for fault in faults:
            fault.strike()
        for fault in sorted(faults, key=lambda fault: fault.hold_s):
            _wait(fault.struck_s + fault.hold_s - time.time())
            fault.relieve()
        taken = len(run.metrics)
        for fault in faults:
            run.until(fault.mended, f"{fault.kind()} ({fault.victim}) is mended", MEND_S)
            _well(run, taken, f"the run is well after {fault.kind()}")
            seconds = time.time() - fault.struck_s
            self.struck.append(Struck(fault.kind(), fault.victim, step, seconds))
            print(f"{len(self.struck)}: {fault.kind()} ({fault.victim}) at step {step}, {seconds:.1f} s", flush=True)

    def table(self) -> list[str]:
        """One line a kind: faults, and seconds until the run was well (median, longest)."""
        seconds: dict[str, list[float]] = {}
        for one in self.struck:
            seconds.setdefault(one.kind, []).append(one.seconds)
        return [
            f"| {kind} | {len(times)} | {statistics.median(times):.0f} | {max(times):.0f} |"
            for kind, times in sorted(seconds.items())
        ]


def _well(run: ChaoticRun, taken: int, what: str) -> None:
    """All actors serve, and more than `taken` steps were logged."""
    run.until(lambda: run.all_serve and len(run.metrics) > taken, what, MEND_S)


def _wait(seconds: float) -> None:
    """Let time go by, whatever becomes of the driver meanwhile."""
    end_s = time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0.0:
        time.sleep(min(POLL_S, left_s))

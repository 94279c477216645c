"""A job whose driver is killed at some moment of its life: what it printed when, and what outlives it.

start ........ first step ... step ... checkpoint ... evaluation ... last step ... end
|-- "start" --|              |-"step"-|-"checkpoint"-|-"evaluation"-|          |-"end"-|
"""

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from tests.fakes.job import Job

MARK = "UNISD_TEST_LIFE"
"""Every process that a driver starts, and all that those start, has this variable of its environment."""
TIMEOUT_S = 500.0
GONE_S = 180.0  # agents of Ray take long on a busy machine; all others go within seconds
_POLL_S = 0.005


@dataclass(frozen=True)
class Moment:
    """When to kill: `share` (0 to 1) of the time that `phase` takes, after it began."""

    phase: str
    share: float


@dataclass(frozen=True)
class Pace:
    """Seconds that each phase takes, taken from a run that nobody kills."""

    start: float
    step: float
    publish: float
    checkpoint: float
    evaluation: float
    end: float

    def after(self, moment: Moment) -> float:
        """Seconds from the begin of the phase to the kill."""
        return moment.share * float(asdict(self)[moment.phase])


@dataclass(frozen=True)
class Kill:
    """One that happened, so many seconds after the driver was started; `first_step_s` after that it ended a step."""

    phase: str
    alive_s: float
    last_line: str
    first_step_s: float | None


def moments(seed: int, phases: Sequence[str]) -> list[Moment]:
    """One moment for each phase, in random order but for those of the end, which come last."""
    random_ = random.Random(seed)
    before = [phase for phase in phases if phase != "end"]
    random_.shuffle(before)
    ordered = before + [phase for phase in phases if phase == "end"]
    return [Moment(phase, random_.random()) for phase in ordered]


class Life:
    """One driver from its start on; a thread reads what it prints."""

    def __init__(self, running: Job, run: Path, last_step: int, mark: str) -> None:
        self.running, self.lines = running, list[tuple[float, str]]()
        self._run, self._mark, self._steps = run, mark, last_step
        self._last = f"step {last_step:4d}/{last_step}"
        self._began_s, self._began_at = time.monotonic(), time.time()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def age_s(self) -> float:
        """Seconds since the driver was started."""
        return time.monotonic() - self._began_s

    @property
    def output(self) -> str:
        """What it printed so far."""
        return "".join(line for _, line in list(self.lines))

    def seen_s(self, start: str) -> float | None:
        """When the first line that starts so came; None where none did yet."""
        return next((at for at, line in list(self.lines) if line.startswith(start)), None)

    def kill(self, moment: Moment, pace: Pace) -> Kill:
        """`kill -9` of the driver, and of nothing else, at this moment; returns when it is dead."""
        self._wait(self._begins(moment.phase), f"the phase {moment.phase}")
        begun_s, after_s = self.age_s if moment.phase != "start" else 0.0, pace.after(moment)
        over = self._ends(moment.phase)
        self._wait(lambda: self.age_s >= begun_s + after_s or over(), f"{after_s:.2f} s of {moment.phase}")
        alive_s = self.age_s
        self.running.kill()
        assert self.running.wait(timeout=TIMEOUT_S) == -9, f"it ended before its kill:\n{self.output[-3000:]}"
        self._reader.join(TIMEOUT_S)
        last = self.lines[-1][1].strip() if self.lines else ""
        return Kill(moment.phase, alive_s, last, self.seen_s("step "))

    def left_s(self) -> float:
        """Seconds until no process that this life started is there any more; fails where one outlives it."""
        began_s = time.monotonic()
        while left := leftovers(self._mark):
            assert time.monotonic() < began_s + GONE_S, f"{GONE_S:g} s after the kill there are still {left}"
            threading.Event().wait(0.1)
        return time.monotonic() - began_s

    def finish(self) -> str:
        """What it printed, once it has ended well."""
        code = self.running.wait(timeout=TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        assert code == 0, f"exit code {code}\n{self.output[-4000:]}"
        return self.output

    def pace(self, evaluation_s: float) -> Pace:
        """How long each phase of this life, which has ended, took."""
        first, last = self.seen_s("step "), self.seen_s(self._last)
        (*_, examined) = [at for at, line in self.lines if line.startswith("accuracy of version")]
        assert first is not None
        assert last is not None
        steps = [at for at, line in self.lines if line.startswith("step ")]
        gaps = sorted(after - before for before, after in pairwise(steps))
        end_s = min(0.5, 0.5 * (examined - last))  # a faster end would forestall the kill
        return Pace(first, 2.0 * gaps[len(gaps) // 2], 0.1, 0.15, evaluation_s, end_s)

    def _begins(self, phase: str) -> Callable[[], bool]:
        checkpoints = self._run / "checkpoints"
        begins: Mapping[str, Callable[[], bool]] = {
            "start": lambda: True,
            "step": lambda: self.seen_s("step ") is not None,
            "publish": lambda: self.seen_s("step ") is not None,
            "checkpoint": lambda: any(self._is_new(path) for path in checkpoints.glob("*.partial")),
            "evaluation": lambda: any(
                line.startswith("evaluating version") and not line.startswith("evaluating version 0")
                for _, line in list(self.lines)
            ),
            "end": self._is_at_the_end,
        }
        return begins[phase]

    def _ends(self, phase: str) -> Callable[[], bool]:
        """A machine that is less busy by now may be through with a long phase before the kill."""
        examined = sum("accuracy of version" in line for _, line in list(self.lines))
        over: Mapping[str, Callable[[], bool]] = {
            "start": lambda: self.seen_s("step ") is not None,
            "evaluation": lambda: sum("accuracy of version" in line for _, line in list(self.lines)) > examined,
        }
        return over.get(phase, lambda: False)

    def _is_at_the_end(self) -> bool:
        """It took the last step, or was resumed after it."""
        resumed = f"/step-{self._steps} (lineage "
        return any(line.startswith(self._last) or resumed in line for _, line in list(self.lines))

    def _is_new(self, partial: Path) -> bool:
        """Whether this life writes it: a life before may have left one."""
        with contextlib.suppress(FileNotFoundError):
            return partial.stat().st_mtime > self._began_at
        return False

    def _wait(self, ready: Callable[[], bool], what: str) -> None:
        while not ready():
            assert self.age_s < TIMEOUT_S, f"waited {TIMEOUT_S:g} s for {what}:\n{self.output[-3000:]}"
            assert self.running.poll() is None, f"it ended before {what}:\n{self.output[-3000:]}"
            threading.Event().wait(_POLL_S)

    def _read(self) -> None:
        assert self.running.stdout is not None
        for line in self.running.stdout:
            self.lines.append((self.age_s, line))


def leftovers(mark: str) -> list[str]:
    """The processes that a life started, whoever their parent is now."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdecimal() and wanted in (process / "environ").read_bytes().split(b"\0"):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if command and int(process.name) != os.getpid():
                    found.append(f"{process.name} {command[:80]}")
    return found

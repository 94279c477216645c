"""The runs of a grid, side by side: each a command of its own, on cores of its own, within a limit of time.

```
cells that have no row --(a core and memory are free)--> run --> evaluate out of domain --> row of the Parquet file
                                                          |
                                                          +-- failed, or over the limit: said, and not counted
```

A run in one process (`run.placement` in_process) takes one core, so there are as many as cores; another one takes the
machine. What a run that did not finish left is deleted before it begins anew. The children of a grid that is killed are
killed with it.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import tomli_w

from unisd_rl.ablation.commands import Command, CommandProcess
from unisd_rl.ablation.grid import Cell
from unisd_rl.ablation.results import Cost
from unisd_rl.cluster.cores import available_cores
from unisd_rl.config import Config
from unisd_rl.storage.files import write_text_atomic

_POLL_S = 0.5
_ENDING_S = 10.0  # what a run that is over its limit has, before it is killed
_FIRST_MIB = 2048.0  # memory that a run is taken to need while none has told


@dataclass(frozen=True, slots=True)
class CellRun:
    """A run of a grid, and its files: `folder` gets the run, the answers out of domain, and what both print."""

    cell: Cell
    config: Config
    out_of_domain: Config | None
    folder: Path
    checkpoints: tuple[int, ...] = ()
    """Steps whose checkpoints are evaluated after the run."""
    recording: Path | None = None
    """The folder of the run whose rollouts it is trained on. None: it samples its own."""

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.folder / self.cell.name

    @property
    def answers(self) -> Path:
        """Where the answers out of domain go."""
        return self.folder / f"{self.cell.name}-out-of-domain"

    @property
    def later(self) -> Path:
        """Where the answers of the checkpoints go."""
        return self.folder / f"{self.cell.name}-checkpoints"

    @property
    def log(self) -> Path:
        """What its commands print."""
        return self.folder / f"{self.cell.name}.log"

    @property
    def forked(self) -> bool:
        """Whether its commands may be forks of a process that has imported what they need."""
        return self.config.run.in_process

    def commands(self) -> Iterator[Command]:
        """What is run, one after the other; each is made when the one before has ended."""
        recipe = str(self._written("run", self.config))
        yield Command("unisd_rl.run", (recipe,)) if self.recording is None else self._replay(self.recording)
        if self.checkpoints:
            yield self._evaluation(self.checkpoints, recipe, self.later)
        if self.out_of_domain is not None:
            other = str(self._written("out-of-domain", self.out_of_domain))
            yield self._evaluation((self.config.run.total_steps,), other, self.answers)

    def clear(self) -> None:
        """Delete what an earlier try left."""
        for path in (self.run, self.answers, self.later):
            shutil.rmtree(path, ignore_errors=True)
        self.log.unlink(missing_ok=True)

    def _replay(self, recording: Path) -> Command:
        """The command that trains on the recording, with this run's objective and learning rate."""
        objective = json.dumps(self.config.model_dump(mode="json")["objective"])  # absent sections too, as null
        run = self.config.run
        fields = {
            "run.checkpoint_every": run.checkpoint_every,
            "run.keep_checkpoints": run.keep_checkpoints,
            "learner.learning_rate": self.config.learner.learning_rate,
        }
        options = [word for name, value in fields.items() for word in (f"--{name}", str(value))]
        return Command("unisd_rl.replay", (str(recording), "--objective", objective, "--run.name", run.name, *options))

    def _evaluation(self, steps: Sequence[int], recipe: str, out: Path) -> Command:
        checkpoints = [str(self.run / "checkpoints" / f"step-{step}") for step in steps]
        return Command("unisd_rl.evaluate", (*checkpoints, "--recipe", recipe, "--out", str(out)))

    def _written(self, name: str, config: Config) -> Path:
        path = self.folder / f"{self.cell.name}.{name}.toml"
        write_text_atomic(path, tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)))
        return path


@dataclass(slots=True)
class _Child:
    run: CellRun
    cores: tuple[int, ...]
    commands: Iterator[Command]
    began_s: float
    process: CommandProcess | None = None
    peak_mib: float = 0.0
    cpu_s: float = 0.0
    ended_s: float | None = None


@dataclass(slots=True)
class Runner:
    """Makes runs. `finished(run, cost)` is called after each that succeeded, `failed(run, why)` after each other."""

    limit_minutes: float
    jobs: int
    finished: Callable[[CellRun, Cost], None]
    failed: Callable[[CellRun, str], None]
    peak_mib: float = _FIRST_MIB
    """The largest memory of a run so far."""
    _children: list[_Child] = field(default_factory=list)

    def make(self, runs: Sequence[CellRun]) -> None:
        """All of them, in order; returns when the last one has ended."""
        left = list(runs)
        cores = list(available_cores())
        try:
            while left or self._children:
                while len(self._children) < self.jobs and self._has_room() and (run := self._next(left)):
                    left.remove(run)
                    used = {core for child in self._children for core in child.cores}
                    own = tuple(core for core in cores if core not in used)[:1] if self.jobs > 1 else ()
                    self._begin(run, own)
                time.sleep(_POLL_S)
                for child in tuple(self._children):
                    self._check(child)
        finally:
            for child in self._children:
                if child.process is not None:
                    child.process.kill()
            self._children.clear()

    def _next(self, left: Sequence[CellRun]) -> CellRun | None:
        """The first whose recording is not still to be made."""
        unfinished = {run.run for run in (*left, *(child.run for child in self._children))}
        return next((run for run in left if run.recording not in unfinished), None)

    def _has_room(self) -> bool:
        available = psutil.virtual_memory().available / 2**20
        return not self._children or available > self.peak_mib

    def _begin(self, run: CellRun, cores: tuple[int, ...]) -> None:
        run.clear()
        run.folder.mkdir(parents=True, exist_ok=True)
        child = _Child(run, cores, run.commands(), time.monotonic())
        self._children.append(child)
        self._go_on(child)

    def _go_on(self, child: _Child) -> bool:
        """Start the next command; False where there is none."""
        command = next(child.commands, None)
        if command is None:
            return False
        child.process = CommandProcess(command, child.cores, child.run.log, child.run.forked)
        return True

    def _check(self, child: _Child) -> None:
        assert child.process is not None, "a child has a process from its start on"
        now_s, limit_s = time.monotonic(), 60.0 * self.limit_minutes
        code = child.process.exit_code
        if code is None:
            if child.ended_s is not None and now_s > child.ended_s + _ENDING_S:
                child.process.kill()
            elif child.ended_s is None and now_s > child.began_s + limit_s:
                child.process.terminate()
                child.ended_s = now_s
            return
        used = child.process.usage()
        child.cpu_s += used.cpu_s
        child.peak_mib = max(child.peak_mib, used.peak_mib)
        if child.ended_s is None and code == 0 and self._go_on(child):
            return
        self._children.remove(child)
        if child.ended_s is not None:
            self.failed(child.run, f"took more than {self.limit_minutes:g} minutes (limit_minutes)")
        elif code:
            self.failed(child.run, f"exit code {code}: {_last_line(child.run.log)}")
        else:
            self.peak_mib = max(child.peak_mib, 0.0 if self.peak_mib == _FIRST_MIB else self.peak_mib)
            self.finished(child.run, Cost(now_s - child.began_s, child.cpu_s, child.peak_mib))


def default_jobs(configs: Sequence[Config]) -> int:
    """As many as cores where every run is in one process; else one, which has the machine."""
    return len(available_cores()) if all(config.run.in_process for config in configs) else 1


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"{lines[-1][:200]}; see {log}" if lines else f"see {log}"

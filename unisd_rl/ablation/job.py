"""A grid's work: what is there, what is missing, making it, and the report."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from unisd_rl.ablation.grid import Cell, Grid, settings_digest
from unisd_rl.ablation.report import Progress, write_report
from unisd_rl.ablation.results import Cost, checkpoint_evaluations, read_results, result_of, write_results
from unisd_rl.ablation.runner import CellRun, Runner, default_jobs
from unisd_rl.config.load import overlay, validate_config
from unisd_rl.errors import RunFailed, UserError
from unisd_rl.reporting.record import RunRecord
from unisd_rl.storage.files import FolderLock
from unisd_rl.terminal import say


class GridJob:
    """All runs of a grid with their configurations, checked; `only` names the rows that are made, all where empty."""

    def __init__(self, path: Path, grid: Grid, out: Path, folder: Path, only: tuple[str, ...] = ()) -> None:
        self._path, self._grid, self._out, self._folder = path, grid, out, folder.absolute()
        wanted = {*(only or grid.rows), *(grid.rows[row].replays for row in only)}
        self._runs = {cell: self._run_of(cell) for cell in grid.cells() if cell.row in wanted}
        self._digests = {cell: self._digest(cell) for cell in self._runs}
        self._results = {result.cell: result for result in read_results(out)}
        self.failures: list[str] = []
        """Names of the runs that failed."""

    @property
    def _missing(self) -> list[CellRun]:
        """What has no row yet, and recordings that it needs and that are not on this machine."""
        missing = [run for cell, run in self._runs.items() if not self._is_done(cell)]
        needed = {run.recording for run in missing if run.recording and not (run.recording / "summary.json").exists()}
        return [run for run in self._runs.values() if run in missing or run.run in needed]

    def _digest(self, cell: Cell) -> str:
        """Of the settings of a run; of one that replays, those of the recording too."""
        replays = self._grid.rows[cell.row].replays
        own = settings_digest(self._runs[cell].config)
        return own if replays is None else f"{own}-{self._digest(cell.of_row(replays))}"

    def describe(self) -> Iterator[str]:
        """What there is and what would be made, for `--dry-run`."""
        missing, runs = self._missing, len(self._runs)
        yield f"grid {self._grid.name}: {runs} runs, {runs - len(missing)} of them in {self._out}"
        for run in missing:
            yield f"  {run.cell.name}: {run.config.run.length} of {run.config.describe_batch()}"

    def make(self, jobs: int | None) -> None:
        """Make what is missing.

        Raises:
            UserError: another command makes this grid in the same folder.
            WriteError: the disk does not take the rows.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with closing(FolderLock(self._folder, "grid.lock")) as lock:
            if not lock.acquire():
                raise UserError(f"another unisd-rl ablate makes its runs in {self._folder}; wait for it, or set --runs")
            missing = self._missing
            stale = sum(cell in self._results and not self._is_done(cell) for cell in self._runs)
            if stale:
                say(f"{stale} rows of {self._out} are of other settings, and are made again")
            _ensure_base_models(missing)
            jobs = jobs or default_jobs([run.config for run in missing])
            say(f"{len(missing)} of {len(self._runs)} runs to make, {jobs} at a time")
            self._clock = _TimeLeft(len(missing), jobs)
            try:
                Runner(self._grid.limit_minutes, jobs, self._finished, self._failed).make(missing)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"stopped; go on with: unisd-rl ablate {self._path}") from None

    def report(self) -> tuple[Path, Path]:
        """Write the report of the rows that are there, of whichever settings the grid now has.

        Raises:
            UserError: there is no row yet.
        """
        results = [self._results[cell] for cell in self._runs if self._is_done(cell)]
        if not results:
            raise UserError(
                f"{self._out} has no finished run of this grid yet; make some: unisd-rl ablate {self._path}"
            )
        progress = Progress(len(results), len(self._runs))
        return write_report(self._path, self._grid, results, progress, self._out)

    def _is_done(self, cell: Cell) -> bool:
        result = self._results.get(cell)
        return result is not None and result.settings == self._digests[cell]

    def _run_of(self, cell: Cell) -> CellRun:
        config, task = self._grid.config(cell, self._folder), self._grid.tasks[cell.task]
        other = None
        if task.out_of_domain is not None:
            tree = config.model_dump(mode="json", exclude_none=True)
            other = validate_config(overlay(tree, {"task": task.out_of_domain}))
        every = self._grid.evaluates_checkpoints(cell.row) and config.run.checkpoint_every
        replays = self._grid.rows[cell.row].replays
        end = config.run.total_steps + (replays is not None)  # a replay evaluates nothing itself
        checkpoints = tuple(range(every, end, every)) if every else ()
        recording = None if replays is None else self._folder / cell.of_row(replays).name
        return CellRun(cell, config, other, self._folder, checkpoints, recording)

    def _finished(self, run: CellRun, cost: Cost) -> None:
        trials, digest = self._grid.rows[run.cell.row].trials, self._digests[run.cell]
        try:
            later = checkpoint_evaluations(run.later, run.checkpoints) if run.checkpoints else []
            if run.recording is not None:  # both began with the same model
                later = [*RunRecord.at(run.recording).evaluations[:1], *later]
            result = result_of(run.cell, digest, RunRecord.at(run.run), _accuracy_in(run), cost, trials, later)
        except (RunFailed, OSError, ValueError, LookupError) as error:
            self._failed(run, f"left no results: {error}")
            return
        self._results[run.cell] = result
        write_results(self._out, self._results.values())
        accuracy = f"{result.mean_accuracy:.1%} over {len(result.steps)} evaluations"
        say(f"{self._clock.counted()} {run.cell.name}: {accuracy}, {cost.seconds:.0f} s, {cost.peak_mib:.0f} MiB")

    def _failed(self, run: CellRun, why: str) -> None:
        self.failures.append(run.cell.name)
        say(f"{self._clock.counted()} {run.cell.name} failed: {why}")


def _ensure_base_models(runs: Sequence[CellRun]) -> None:
    """Train the embedded models that runs begin with now, once for all of them: no row then pays for another's."""
    embedded = [run.config for run in runs if run.config.model.path is None]
    if embedded:
        from unisd_rl.base_model import ensure_base_model, recipe_of  # transformers

        for recipe in dict.fromkeys(map(recipe_of, embedded)):
            say(f"base model of seed {recipe.seed}")
            ensure_base_model(recipe, lambda done, total, text: None)


class _TimeLeft:
    """How many of so many runs have ended, and how long the others will take at the rate so far."""

    def __init__(self, runs: int, jobs: int) -> None:
        self._runs, self._ended, self._began_s = runs, 0, time.monotonic()

    def counted(self) -> str:
        """One more has ended, e.g. `[3/84, 1:12:00 left]`."""
        self._ended += 1
        left_s = (time.monotonic() - self._began_s) / self._ended * (self._runs - self._ended)
        minutes, seconds = divmod(round(left_s), 60)
        return f"[{self._ended}/{self._runs}, {minutes // 60}:{minutes % 60:02d}:{seconds:02d} left]"


def _accuracy_in(run: CellRun) -> float | None:
    """Out of domain, where that was evaluated."""
    if run.out_of_domain is None:
        return None
    content = json.loads((run.answers / "results.json").read_text(encoding="utf-8"))
    return float(content["results"][0]["accuracy"])

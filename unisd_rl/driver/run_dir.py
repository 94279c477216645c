"""The folder of a run: plain files, each written by one owner.

| file | written by |
|---|---|
| config.toml | here, at the start: the resolved configuration; again when `run.epochs` are counted as `run.steps` |
| metrics.jsonl | here, one line per step |
| samples.jsonl | here, a few rollouts with what each token was measured to be (`driver/sample_recorder.py`) |
| events.jsonl | here, one line for each event (`unisd_rl/types.py`) |
| evaluations/step-N.jsonl | here, every answer to every problem |
| evaluations/step-N.json | here, the numbers of that evaluation |
| evaluations/step-N.retention.parquet | here, retention by completion, where it is measured |
| prompts.json | `driver/origin.py`, at the start: fingerprints of what the run began with |
| summary.json | here, at the end |
| tensorboard/, wandb/, mlruns/, trackio/ | `unisd_rl/tracking/`; the run's name there is in tracking/ |
| timeline/, timeline.json.gz | every process (`storage/timeline.py`); put together at the end |
| report.html | `driver/report_writer.py`, at every evaluation and at the end |
| rollouts/, consumed.jsonl, consumed_summaries.jsonl, lineages.jsonl, quarantined.jsonl | the rollout queue |
| checkpoints/step-N/ | the learner |
| control/ | `python -m unisd_rl.scale` and the driver: the target number of rollout actors, and the present one |
| logs/ | every process, one file each |

Files of lines and logs roll over by size (`storage/jsonl.py`, `storage/logs.py`).
A line of metrics.jsonl is of a discarded step if a later lineage began at its step or before it (lineages.jsonl; see
unisd_rl/storage/lineage.py).
"""

import json
import shutil
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w

from unisd_rl.cluster.stop import STOP
from unisd_rl.config import Config
from unisd_rl.errors import RunFailed, UserError
from unisd_rl.evaluation.results import json_lines
from unisd_rl.evaluation.statistics import EvaluationSummary
from unisd_rl.storage.files import FolderLock, WriteError, atomic_write, raise_write_error, write_text_atomic
from unisd_rl.storage.jsonl import JsonLinesFile, json_text
from unisd_rl.storage.lineage import Rollback, read_rollbacks, version_survives
from unisd_rl.storage.recorded_run import check_run_folder, took_no_step
from unisd_rl.types import Answer, Event, Stop


class RunDirectory:
    """The folder `run.dir/run.name` and its files. An earlier run of that name is moved aside to NAME.1, NAME.2, ...,
    and removed if it holds nothing but its own start; a folder that is no run's is never touched."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.steps_logged = 0
        """1 + the highest step that this process wrote to metrics.jsonl."""
        self.notice = ""
        """What `create` did with an earlier run of that name: a sentence for the person, empty where there was none."""
        self.stopped_before = False
        """Whether the run that `reopen` goes on with had been asked to stop, or had finished and is prolonged."""
        self._metrics: JsonLinesFile | None = None
        self._events: JsonLinesFile | None = None
        self._samples: JsonLinesFile | None = None
        self._lock: FolderLock | None = None

    @property
    def config(self) -> Path:
        """The resolved configuration, itself a recipe."""
        return self.path / "config.toml"

    @property
    def summary(self) -> Path:
        """The run in one JSON object; absent until the run has ended."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """The page of the run for people (`reporting/page.py`)."""
        return self.path / "report.html"

    @property
    def logs(self) -> Path:
        """One log file per process."""
        return self.path / "logs"

    @property
    def checkpoints_folder(self) -> Path:
        """The folder of all checkpoints."""
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """Folder of the student after `step` optimiser steps."""
        return self.checkpoints_folder / f"step-{step}"

    def rollbacks(self) -> tuple[Rollback, ...]:
        """Every rollback of the learner, in order."""
        return read_rollbacks(self.path / "lineages.jsonl")

    @contextmanager
    def claimed(self, config: Config, resumed: bool = False) -> Iterator[None]:
        """The folder belongs to this process in this block (`create`, or `reopen` where `resumed`).

        An error or Ctrl-C that ends the block is noted in summary.json; where the disk does not take that, the error
        itself still reaches the person.
        """
        (self.reopen if resumed else self.create)(config)
        try:
            yield
        except Exception as error:
            expected = isinstance(error, RunFailed | UserError)
            with suppress(WriteError):
                self.write_summary({"status": "failed", "error": f"{error}" if expected else repr(error)})
            raise
        except KeyboardInterrupt:
            self.record(Stop("driver", STOP.reason))
            with suppress(WriteError):
                self.write_summary({"status": "interrupted"})
            raise
        finally:
            self.close()

    def create(self, config: Config) -> None:
        """Make the folder and write the resolved configuration.

        Raises:
            UserError: another run is writing there, it is another folder than a run's, or it cannot be made.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and any(self.path.iterdir()):
                self._make_way()
            self.path.mkdir(exist_ok=True)
            self._claim()
            self._open(config)
        except OSError as error:
            raise UserError(f"run folder {self.path} cannot be written: {error.strerror}; set run.dir") from None

    def reopen(self, config: Config) -> None:
        """Use the folder of an earlier run again: its files stay and are appended to.

        Raises:
            UserError: that run is alive, or the folder cannot be written.
        """
        try:
            self._claim()
            self.stopped_before = _status(self.summary) in ("interrupted", "completed")
            self.summary.unlink(missing_ok=True)
            recorded = tomllib.loads(self.config.read_text(encoding="utf-8"))
            if _recorded(config)["rollout"]["actors"] != recorded.get("rollout", {}).get("actors"):
                # A new number in the configuration overrules what `unisd_rl.scale` last requested.
                (self.path / "control" / "actors.json").unlink(missing_ok=True)
            self._open(config)
        except OSError as error:
            raise UserError(f"run folder {self.path} cannot be written: {error.strerror}") from None

    def write_config(self, config: Config) -> None:
        """Write config.toml anew.

        Raises:
            WriteError: the disk does not take it.
        """
        with raise_write_error(self.config):
            write_text_atomic(self.config, tomli_w.dumps(_recorded(config)))

    def log_step(self, row: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        assert self._metrics is not None, "create() or reopen() comes first"
        self._metrics.append_or_keep(row)
        self.steps_logged = max(self.steps_logged, row["step"] + 1)

    def log_samples(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append lines to samples.jsonl."""
        if self._samples is None:
            self._samples = JsonLinesFile(self.path / "samples.jsonl")
        for row in rows:
            self._samples.append_or_keep(row)

    def record(self, event: Event) -> None:
        """Append one line to events.jsonl: the time in seconds since the epoch, the kind of event, and its fields."""
        if self._events is None:
            self._events = JsonLinesFile(self.path / "events.jsonl")
        self._events.append_or_keep({"time_s": time.time(), "event": type(event).__name__.lower(), **asdict(event)})

    def write_evaluation(self, step: int, answers: Sequence[Answer], numbers: Mapping[str, Any]) -> Path:
        """Write the evaluation after `step` steps: every answer, one line each, and the numbers in a file of their own.

        Raises:
            WriteError: the disk does not take it. It may be written again.
        """
        path = self._evaluation(step, "jsonl")
        with raise_write_error(path):
            write_text_atomic(path, json_lines(answers))
            write_text_atomic(self._evaluation(step, "json"), json_text(numbers))
        return path

    def evaluation_summary(self, step: int) -> EvaluationSummary | None:
        """The numbers of the evaluation after `step` steps; None where there is none, or a rollback discarded it."""
        path = self._evaluation(step, "json")
        if not path.exists():
            return None
        summary = EvaluationSummary.from_json(json.loads(path.read_text(encoding="utf-8")))
        return summary if version_survives(summary.lineage, summary.version, self.rollbacks()) else None

    def write_retention(self, step: int, rows: pa.Table) -> None:
        """Write the retention of each completion of that evaluation; raises WriteError as `write_evaluation` does."""
        path = self._evaluation(step, "retention.parquet")
        with raise_write_error(path), atomic_write(path) as partial:
            pq.write_table(rows, partial)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json; its presence says that the run ended.

        Raises:
            WriteError: the disk does not take it.
        """
        with raise_write_error(self.summary):
            write_text_atomic(self.summary, json_text(summary))

    def close(self) -> None:
        """Release the folder."""
        if self._lock is not None:
            self._lock.close()

    def _open(self, config: Config) -> None:
        self.logs.mkdir(exist_ok=True)
        write_text_atomic(self.config, tomli_w.dumps(_recorded(config)))
        self._metrics = JsonLinesFile(self.path / "metrics.jsonl")

    def _evaluation(self, step: int, suffix: str) -> Path:
        path = self.path / "evaluations" / f"step-{step}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        return path

    def _make_way(self) -> None:
        """Move the run that is here aside, or remove what is left of one that ended before it began.

        Raises:
            UserError: it is alive, or no run of ours.
        """
        check_run_folder(self.path)
        self._claim()
        if took_no_step(self.path):
            shutil.rmtree(self.path)
            self.notice = f"{self.path} held only the start of a run that took no step: it is replaced"
        else:
            names = (self.path.with_name(f"{self.path.name}.{number}") for number in count(1))
            aside = next(name for name in names if not name.exists())
            self.path.rename(aside)
            self.notice = f"the earlier run {self.path} is moved aside to {aside.name}"
        self.close()

    def _claim(self) -> None:
        self._lock = FolderLock(self.path)
        if not self._lock.acquire():
            raise UserError(f"another run is writing to {self.path}; give this one another run.name")


def _status(summary: Path) -> str:
    """The status in a summary.json; empty where there is none, or nobody can read it."""
    try:
        return str(json.loads(summary.read_text(encoding="utf-8"))["status"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _recorded(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude_none=True)

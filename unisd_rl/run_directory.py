"""What a run leaves behind: one folder, plain files, each written by one owner.

| file | written by |
|---|---|
| config.toml | here, at the start: the resolved configuration |
| metrics.jsonl | here, one line a step |
| events.jsonl | here, one line for each fault and each recovery |
| evaluations/step-N.jsonl | here, every answer to every problem |
| evaluations/step-N.json | here, the numbers of that evaluation |
| evaluations/step-N.retention.parquet | here, retention by completion, where it is measured |
| summary.json | here, at the end |
| rollouts/, consumed.jsonl | the rollout queue |
| checkpoints/step-N/ | the learner |
| control/ | `python -m unisd_rl.scale` and the driver: how many rollout actors there shall be, and are |
| logs/ | every process its own |
"""

import fcntl
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w

from unisd_rl.answers import json_lines
from unisd_rl.config import Config
from unisd_rl.errors import UserError
from unisd_rl.faults import Event
from unisd_rl.types import Answer


class RunDirectory:
    """Owner of `run.dir/run.name`. An earlier run of that name is moved aside to NAME.1, NAME.2, ..."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._metrics: IO[str] | None = None
        self._lock: IO[str] | None = None

    @property
    def config(self) -> Path:
        """The resolved configuration, itself a recipe."""
        return self.path / "config.toml"

    @property
    def summary(self) -> Path:
        """The run in one JSON object; absent until the run ended."""
        return self.path / "summary.json"

    @property
    def logs(self) -> Path:
        """One log file per process."""
        return self.path / "logs"

    def checkpoint(self, step: int) -> Path:
        """Folder of the student after `step` optimiser steps."""
        return self.path / "checkpoints" / f"step-{step}"

    def create(self, config: Config) -> None:
        """Make the folder and write the resolved configuration.

        Raises:
            UserError: another run is writing there, or the folder cannot be made.
        """
        try:
            self._claim()
            self.logs.mkdir(exist_ok=True)
            self.config.write_text(tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
        except OSError as error:
            raise UserError(f"run folder {self.path} cannot be written: {error.strerror}; set run.dir") from None
        self._metrics = (self.path / "metrics.jsonl").open("w", encoding="utf-8")

    def log_step(self, row: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl, on the file at once."""
        assert self._metrics is not None, "create() comes first"
        self._metrics.write(json.dumps(plain(row)) + "\n")
        self._metrics.flush()

    def record(self, event: Event) -> None:
        """Append one line to events.jsonl: the time in seconds since the epoch, the kind, and its fields."""
        line = {"time_s": time.time(), "event": type(event).__name__.lower(), **asdict(event)}
        with (self.path / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def write_evaluation(self, step: int, answers: Sequence[Answer], numbers: Mapping[str, Any]) -> Path:
        """The evaluation after `step` steps: every answer, one line each, and the numbers beside them."""
        path = self._evaluation(step, "jsonl")
        path.write_text(json_lines(answers), encoding="utf-8")
        self._evaluation(step, "json").write_text(json.dumps(plain(numbers), indent=2) + "\n", encoding="utf-8")
        return path

    def write_retention(self, step: int, rows: pa.Table) -> None:
        """What the retention numbers of that evaluation are made of."""
        pq.write_table(rows, self._evaluation(step, "retention.parquet"))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json; its presence says that the run ended."""
        self.summary.write_text(json.dumps(plain(summary), indent=2) + "\n", encoding="utf-8")

    def close(self) -> None:
        """Close the files and let go of the folder."""
        for file in (self._metrics, self._lock):
            if file is not None:
                file.close()

    def _evaluation(self, step: int, suffix: str) -> Path:
        path = self.path / "evaluations" / f"step-{step}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        return path

    def _claim(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if (self.path / "lock").exists():
            self._refuse_if_alive()
            self.path.rename(_free_name(self.path))
        self.path.mkdir(exist_ok=True)
        self._lock = (self.path / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _refuse_if_alive(self) -> None:
        with (self.path / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another run is writing to {self.path}; give this one another run.name") from None


def _free_name(path: Path) -> Path:
    number = 1
    while (candidate := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return candidate


def plain(value: Any) -> Any:
    """JSON has no nan: null stands for a number that does not exist, however deep it lies."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

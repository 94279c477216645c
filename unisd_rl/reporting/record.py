"""A run as its folder has it, for people to look at: of an unfinished, an older or a damaged run what can be read."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from unisd_rl.config.base import settings
from unisd_rl.config.load import load_recipe
from unisd_rl.errors import UserError
from unisd_rl.storage.lineage import read_rollbacks, step_survives, version_survives
from unisd_rl.storage.recorded_run import check_is_run
from unisd_rl.storage.rolling import open_parts

Row = Mapping[str, Any]
MOST_STEPS = 4096
"""Of metrics.jsonl that are held: a curve has fewer points, and a line of it takes some ten KiB of memory."""


@dataclass(frozen=True)
class RecordedEvaluation:
    """The evaluation after `step` steps: its numbers, and every answer, read from its file when asked for.

    A page shows the answers of two evaluations, however many a run has.
    """

    step: int
    numbers: Row
    path: Path

    @cached_property
    def answers(self) -> Sequence[Row]:
        """One row an answer; none where the file is gone."""
        return list(_lines(self.path))

    def scores(self) -> dict[str, float]:
        """Problem -> share of its answers that are right. Problems that have one id share one score."""
        grades: defaultdict[str, list[bool]] = defaultdict(list)
        for answer in self.answers:
            grades[answer["id"]].append(answer["correct"])
        return {problem: sum(right) / len(right) for problem, right in grades.items()}


@dataclass(frozen=True)
class RunRecord:
    """The files of one run, read when they are asked for; steps that a rollback discarded are left out."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> "RunRecord":
        """The run in this folder, finished or not.

        Raises:
            UserError: it is no run's folder.
        """
        check_is_run(path)
        return cls(path.absolute())

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.path.name

    def iter_rows(self) -> Iterator[Row]:
        """The lines of metrics.jsonl that count, one a step."""
        return filter(self._counts, _lines(self.path / "metrics.jsonl"))

    @cached_property
    def rows(self) -> Sequence[Row]:
        """As `iter_rows`; of a long run at most `MOST_STEPS` of them: each second one, or fourth, eighth, ..., and the
        last."""
        rows, every, last = dict[int, Row](), 1, 0
        for row in self.iter_rows():
            if last % every:
                rows.pop(last, None)
            last = row["step"]
            rows[last] = row
            if len(rows) > MOST_STEPS:
                every *= 2
                rows = {step: kept for step, kept in rows.items() if step % every == 0 or step == last}
        return [rows[step] for step in sorted(rows)]

    def mean(self, name: str) -> float | None:
        """Of a number of metrics.jsonl, over the held steps that have it; None where none has."""
        numbers = [row[name] for row in self.rows if isinstance(row.get(name), int | float)]
        finite = [number for number in numbers if math.isfinite(number)]
        return fmean(finite) if finite else None

    @cached_property
    def samples(self) -> Sequence[Row]:
        """The lines of samples.jsonl that count, one a rollout (`driver/sample_recorder.py`)."""
        rows = {row["number"]: row for row in filter(self._counts, _lines(self.path / "samples.jsonl"))}
        return [rows[number] for number in sorted(rows)]

    @cached_property
    def evaluations(self) -> Sequence[RecordedEvaluation]:
        """All of the steps that count, in order."""
        return sorted(self._evaluations(), key=lambda evaluation: evaluation.step)

    @cached_property
    def events(self) -> Sequence[Row]:
        """What happened: faults, recoveries, notices."""
        return list(_lines(self.path / "events.jsonl"))

    @cached_property
    def summary(self) -> Row:
        """summary.json; empty while the run goes on."""
        return self._json(self.path / "summary.json") or {}

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """Dotted name -> value of the configuration; empty where this version does not read it."""
        try:
            return {
                name: setting.value for name, setting in settings(load_recipe(str(self.path / "config.toml"))).items()
            }
        except UserError:
            return {}

    def _counts(self, row: Row) -> bool:
        return step_survives(row.get("lineage", 0), row["step"], self._rollbacks)

    def _evaluations(self) -> Iterator[RecordedEvaluation]:
        for path in (self.path / "evaluations").glob("step-*.json"):
            numbers = self._json(path)
            if numbers and version_survives(numbers.get("lineage", 0), numbers["version"], self._rollbacks):
                yield RecordedEvaluation(numbers["version"], numbers, path.with_suffix(".jsonl"))

    @cached_property
    def _rollbacks(self) -> Any:
        return read_rollbacks(self.path / "lineages.jsonl")

    def _json(self, path: Path) -> Row | None:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The complete lines; one that nobody can read is left out. Python's json reads halves of surrogate pairs."""
    with suppress(OSError):
        for _, file in open_parts(path):
            for line in file:
                with suppress(ValueError):
                    yield json.loads(line.decode("utf-8", errors="replace"))

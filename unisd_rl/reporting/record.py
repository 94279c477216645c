"""A run as its folder has it, for people to look at: of an unfinished, an older or a damaged run what can be read."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unisd_rl.config.base import settings
from unisd_rl.config.load import load_recipe
from unisd_rl.errors import UserError
from unisd_rl.storage.lineage import read_rollbacks, step_survives, version_survives
from unisd_rl.storage.recorded_run import check_is_run
from unisd_rl.storage.rolling import open_parts

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RecordedEvaluation:
    """The evaluation after `step` steps: its numbers, and every answer."""

    step: int
    numbers: Row
    answers: Sequence[Row]

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

    @cached_property
    def rows(self) -> Sequence[Row]:
        """The lines of metrics.jsonl that count, one a step."""
        rows = {row["step"]: row for row in self._lines("metrics.jsonl") if self._counts(row)}
        return [rows[step] for step in sorted(rows)]

    @cached_property
    def samples(self) -> Sequence[Row]:
        """The lines of samples.jsonl that count, one a rollout (`driver/sample_recorder.py`)."""
        rows = {row["number"]: row for row in self._lines("samples.jsonl") if self._counts(row)}
        return [rows[number] for number in sorted(rows)]

    @cached_property
    def evaluations(self) -> Sequence[RecordedEvaluation]:
        """All of the steps that count, in order."""
        return sorted(self._evaluations(), key=lambda evaluation: evaluation.step)

    @cached_property
    def events(self) -> Sequence[Row]:
        """What happened: faults, recoveries, notices."""
        return self._lines("events.jsonl")

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
                answers = self._lines(f"evaluations/{path.stem}.jsonl")
                yield RecordedEvaluation(numbers["version"], numbers, answers)

    @cached_property
    def _rollbacks(self) -> Any:
        return read_rollbacks(self.path / "lineages.jsonl")

    def _lines(self, name: str) -> list[dict[str, Any]]:
        """The complete lines; one that nobody can read is left out. Python's json reads halves of surrogate pairs."""
        rows = []
        with suppress(OSError):
            for _, file in open_parts(self.path / name):
                for line in file.read().decode("utf-8", errors="replace").split("\n"):
                    with suppress(ValueError):
                        rows.append(json.loads(line))
        return rows

    def _json(self, path: Path) -> Row | None:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

"""What a run's folder has of what trackers were told: for one that lost some, as its process was killed."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from typing_extensions import override

from unisd_rl.storage.jsonl import read_json_lines
from unisd_rl.storage.lineage import read_rollbacks, step_survives, version_survives
from unisd_rl.tracking.names import flat, grouped
from unisd_rl.tracking.tracker import Rows, RunInformation, Tracker
from unisd_rl.types import Event


def recorded_numbers(run: Path, version: int) -> Iterator[tuple[int, Mapping[str, float]]]:
    """(Version, its numbers) of the steps and evaluations up to `version` that count."""
    rollbacks = read_rollbacks(run / "lineages.jsonl")
    for line in read_json_lines(run / "metrics.jsonl"):
        if line["step"] < version and step_survives(line["lineage"], line["step"], rollbacks):
            yield line["step"] + 1, grouped(line)
    for path in (run / "evaluations").glob("step-*.json"):
        numbers = json.loads(path.read_text(encoding="utf-8"))
        if numbers["version"] <= version and version_survives(numbers["lineage"], numbers["version"], rollbacks):
            yield numbers["version"], flat(numbers, "evaluation/")


class ToldAgain(Tracker):
    """A tracker whose process may be killed before its library is imported, or has written what it was told.

    When the run is resumed it is told the steps and evaluations before that again, unless it was closed.
    """

    def __init__(self, run: Path, name: str, open_tracker: Callable[[], Tracker]) -> None:
        self._run, self._closed = run, run / "tracking" / f"{name}.closed"
        self._lost_some = not self._closed.exists()
        self._closed.unlink(missing_ok=True)
        self._tracker = open_tracker()
        self.waits_for_a_server = self._tracker.waits_for_a_server

    @override
    def begin(self, version: int, information: RunInformation) -> None:
        self._tracker.begin(version, information)
        if self._lost_some and version:
            for earlier, numbers in recorded_numbers(self._run, version):
                self._tracker.numbers(earlier, numbers)
        self._lost_some = False

    @override
    def numbers(self, version: int, numbers: Mapping[str, float]) -> None:
        self._tracker.numbers(version, numbers)

    @override
    def event(self, event: Event) -> None:
        self._tracker.event(event)

    @override
    def table(self, version: int, name: str, columns: Sequence[str], rows: Rows) -> None:
        self._tracker.table(version, name, columns, rows)

    @override
    def close(self, failed: bool) -> None:
        self._tracker.close(failed)
        self._closed.parent.mkdir(exist_ok=True)
        self._closed.touch()

"""What a run's folder has of what trackers were told: for one that lost some, as its process was killed."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from unisd_rl.storage.jsonl import read_json_lines
from unisd_rl.storage.lineage import read_rollbacks, step_survives, version_survives
from unisd_rl.tracking.names import flat, grouped


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

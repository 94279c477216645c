"""Reads a run's metrics.jsonl and plots fields in the terminal: `python examples/read_metrics.py RUN [FIELD ...]`.

One line per field: its first, smallest, largest and last value, and its course over the steps that count.
"""

import json
import math
import sys
from pathlib import Path

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60
USUAL = ("loss", "divergence", "staleness_mean", "learner_wait", "tokens_per_s")


def steps_that_count(run: Path) -> list[dict[str, float | None]]:
    """The lines of metrics.jsonl, one per step; after a rollback those from there on no longer count.

    A long run has metrics.00001.jsonl and so on before it, which sort so.
    """
    rows: dict[int, dict[str, float | None]] = {}
    files = sorted(run.glob("metrics*.jsonl"))
    for line in (line for file in files for line in file.read_text().splitlines()):
        row = json.loads(line)
        rows = {step: earlier for step, earlier in rows.items() if step < row["step"]}
        rows[row["step"]] = row
    return list(rows.values())


def course(values: list[float]) -> str:
    """The values as bars from the smallest to the largest, means of neighbours where there are more than fit."""
    size = max(1, math.ceil(len(values) / WIDTH))
    means = [sum(values[i : i + size]) / len(values[i : i + size]) for i in range(0, len(values), size)]
    low, span = min(means), (max(means) - min(means)) or 1.0
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in means)


def main(run: Path, fields: tuple[str, ...]) -> None:
    """Print one line per field; a field that is null in a line was not defined there."""
    rows = steps_that_count(run)
    print(f"{run}: {len(rows)} steps")
    for field in fields:
        values = [value for row in rows if (value := row.get(field)) is not None]
        if not values:
            print(f"{field:>24}  no values; fields are {', '.join(sorted(rows[0]))}")
            continue
        numbers = f"{values[0]:10.4g} {min(values):10.4g} {max(values):10.4g} {values[-1]:10.4g}"
        print(f"{field:>24} {numbers}  {course(values)}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]).expanduser(), tuple(sys.argv[2:]) or USUAL)

"""A benchmark at its smallest size, as `make bench ARGS=--quick` runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def quick(name: str, folder: Path, *options: str) -> tuple[dict, str]:
    """What `python -m benchmarks.NAME --quick` wrote, of which the parts are checked here, and what it printed."""
    target = folder / f"{name}.json"
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--quick", *options, "--json", str(target)],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(target.read_text())
    assert set(found) == {"machine", "rows", "ratios"}
    return found, done.stdout

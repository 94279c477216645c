"""The queue's benchmark runs from end to end at a tiny size and writes every figure it promises."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def test_the_quick_benchmark_writes_all_rows_and_ratios(tmp_path):
    target = tmp_path / "queue.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.queue", "--quick", "--dir", str(tmp_path), "--json", str(target)],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(target.read_text())
    assert set(found) == {"machine", "rows", "ratios"}
    assert len(found["rows"]) == 5
    assert {"queue_vs_ray_queue.rows", "queue_vs_ray_queue.bytes", "durable_vs_memory"} <= set(found["ratios"])
    assert all(math.isfinite(ratio) and ratio > 0.0 for ratio in found["ratios"].values())

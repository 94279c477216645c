"""The objective's benchmark runs from end to end at tiny sizes and writes every figure it promises."""

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
    target = tmp_path / "objective.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.objective", "--quick", "--json", str(target)],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(target.read_text())
    assert set(found) == {"machine", "rows", "ratios"}
    promised = ["time_vs_dense", "memory_vs_dense", "share_of_matmul_rate", "error_vs_dense"]
    if "trl is left out" not in done.stdout:
        promised.append("time_vs_trl")
    wanted = {f"{name}.{divergence}" for name in promised for divergence in ("fkl", "jsd", "rkl")}
    assert wanted <= set(found["ratios"])
    assert all(math.isfinite(ratio) and ratio >= 0.0 for ratio in found["ratios"].values())
    # All contenders minimise the same loss: their gradients are those of float64 up to float32 rounding.
    errors = [row for row in found["rows"] if row["measure"] == "error"]
    assert len(errors) >= 6
    assert all(row["hidden_error"] < 1e-4 and row["weight_error"] < 1e-4 for row in errors)
    assert [row["tokens"] for row in found["rows"] if row["measure"] == "growth"] == [16, 32]

"""The objective's benchmark runs from end to end at tiny sizes and writes every figure it promises."""

import math

import pytest

from tests.fakes.quick_benchmark import quick

pytestmark = pytest.mark.slow


def test_the_quick_benchmark_writes_all_rows_and_ratios(tmp_path):
    found, printed = quick("objective", tmp_path)
    promised = ["time_vs_dense", "memory_vs_dense", "share_of_matmul_rate", "error_vs_dense"]
    if "trl is left out" not in printed:
        promised.append("time_vs_trl")
    wanted = {f"{name}.{divergence}" for name in promised for divergence in ("fkl", "jsd", "rkl")}
    assert wanted <= set(found["ratios"])
    assert all(math.isfinite(ratio) and ratio >= 0.0 for ratio in found["ratios"].values())
    # All contenders minimise the same loss: their gradients are those of float64 up to float32 rounding.
    errors = [row for row in found["rows"] if row["measure"] == "error"]
    assert len(errors) >= 6
    assert all(row["hidden_error"] < 1e-4 and row["weight_error"] < 1e-4 for row in errors)
    assert [row["tokens"] for row in found["rows"] if row["measure"] == "growth"] == [16, 32]

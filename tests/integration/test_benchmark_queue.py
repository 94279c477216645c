"""The queue's benchmark runs from end to end at a tiny size and writes every figure it promises."""

import math

import pytest

from tests.fakes.quick_benchmark import quick

pytestmark = pytest.mark.slow


def test_the_quick_benchmark_writes_all_rows_and_ratios(tmp_path):
    found, _ = quick("queue", tmp_path, "--dir", str(tmp_path))
    assert len(found["rows"]) == 5
    assert {"queue_vs_ray_queue.rows", "queue_vs_ray_queue.bytes", "durable_vs_memory"} <= set(found["ratios"])
    assert all(math.isfinite(ratio) and ratio > 0.0 for ratio in found["ratios"].values())

"""The benchmarks of the queue's scale and of the loop run from end to end on real Ray and write what they promise."""

import pytest
from quick_benchmark import quick

pytestmark = pytest.mark.slow
PROMISED = {
    "scale": {"scale_linearity.1", "scale_linearity.8"},
    "loop": {f"loop_vs_ideal{way}.{staleness}" for way in ("", "_even") for staleness in (0, 1)},
}


@pytest.mark.parametrize("name", PROMISED)
def test_the_quick_benchmark_writes_all_rows_and_ratios(tmp_path, name):
    found, _ = quick(name, tmp_path)
    assert set(found["ratios"]) == PROMISED[name]
    assert all(0.0 < ratio < 1.1 for ratio in found["ratios"].values())  # nothing is faster than what it sleeps

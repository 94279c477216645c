"""The benchmarks of the queue's scale and of the loop run from end to end on real Ray and write what they promise."""

import math

import pytest

from tests.fakes.quick_benchmark import quick

pytestmark = pytest.mark.slow
REAL = {
    "loop_vs_unconnected", "loop_vs_alternating",
    "rollout_vs_engine", "rollout_vs_engine_embedded", "rollout_vs_engine_embedded.4",
}  # fmt: skip
LENGTH = {f"length.{name}" for name in ("commit", "take", "report", "memory_mib", "files", "reopen_s")}
SCALE = {"scale_linearity.1", "scale_linearity.8", "queue_cpu_ms_per_rollout.g1", "queue_cpu_ms_per_rollout.g4"}
STAND_IN = {f"loop_vs_ideal{way}.{staleness}" for way in ("", "_even") for staleness in (0, 1)}


@pytest.mark.parametrize(
    ("name", "options", "promised"),
    [
        ("scale", ("--part", "actors"), SCALE),
        ("loop", ("--part", "stand-in"), STAND_IN),
    ],
    ids=["scale", "loop"],
)
def test_the_quick_benchmark_writes_all_rows_and_ratios(tmp_path, name, options, promised):
    found, _ = quick(name, tmp_path, *options)
    assert set(found["ratios"]) == promised
    ratios = {ratio: value for ratio, value in found["ratios"].items() if not ratio.startswith("queue_cpu")}
    assert all(0.0 < value < 1.1 for value in ratios.values())  # nothing is faster than what it sleeps


def test_the_drivers_supervision_is_measured(tmp_path):
    found, _ = quick("scale", tmp_path, "--part", "driver")
    (row,) = found["rows"]
    assert row["actors"] == 8
    assert 0.0 < found["ratios"]["driver_cpu_ms_per_actor_s"] == row["driver_cpu_ms_per_actor_s"] < 1000.0


def test_a_long_run_is_measured_at_each_length(tmp_path):
    found, _ = quick("scale", tmp_path, "--part", "length")
    assert set(found["ratios"]) == LENGTH
    assert [row["rollouts"] for row in found["rows"]] == [1024, 4096]
    assert found["ratios"]["length.files"] == 2  # one segment and its index
    assert all(value > 0.0 for row in found["rows"] for value in row.values())


@pytest.mark.engine
def test_the_loop_on_the_real_engine_and_learner_is_held_against_each_by_itself(tmp_path):
    found, _ = quick("loop", tmp_path, "--part", "real", "actor")
    assert set(found["ratios"]) == REAL
    assert all(math.isfinite(ratio) and ratio > 0.0 for ratio in found["ratios"].values())
    for kind in (("embedded", 1), ("embedded", 4), ("10m", 1)):
        rows = {row["part"]: row for row in found["rows"] if (row.get("model"), row.get("group")) == kind}
        actor, alone = rows["actor"], rows["vLLM alone"]
        assert actor["completions"] == alone["completions"]
        assert actor["tokens"] == pytest.approx(alone["tokens"], rel=0.05)  # the same seeds; batches differ

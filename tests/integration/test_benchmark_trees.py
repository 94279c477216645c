"""The benchmark of context trees runs from end to end at a tiny size, on problems that are made up."""

import math

import pytest

from benchmarks.gpu import parts_for
from benchmarks.layouts.rollouts import CASES
from tests.fakes.quick_benchmark import quick

pytestmark = pytest.mark.slow


def test_the_quick_benchmark_writes_every_ratio_and_the_layouts_agree(tmp_path):
    found, _ = quick("trees", tmp_path)
    measures = ("teacher_time", "step_time", "teacher_tokens", "step_tokens", "teacher_efficiency", "step_efficiency")
    ratios = found["ratios"]
    assert {f"{measure}.{case}" for measure in (*measures, "memory") for case in CASES} <= set(ratios)
    assert all(math.isfinite(ratio) and ratio >= 0.0 for ratio in ratios.values())
    # What a teacher says of four answers behind one prompt is read once for all four.
    assert ratios["teacher_tokens.g4"] > 2.5 * ratios["teacher_tokens.g1"]
    assert ratios["teacher_tokens.question_first_g1"] > 1.2 * ratios["teacher_tokens.g1"]
    assert ratios["logprob_difference"] < 1e-4
    assert ratios["gradient_difference"] < 1e-4


def test_everything_for_a_gpu_runs_at_tiny_sizes_without_one(tmp_path):
    found, _ = quick("gpu", tmp_path)
    notes = {row["part"]: row["note"] for row in found["rows"] if "note" in row}
    assert notes.keys() == {part.name for part in parts_for("cpu", tiny=True)}
    assert "skipped" in notes.pop("tests")  # all of them want a GPU
    assert set(notes.values()) == {""}
    steps = [row for row in found["rows"] if "teacher_tokens" in row]
    assert {row["what"].rsplit(maxsplit=1)[1] for row in steps} == {"packed", "tree", "padded"}

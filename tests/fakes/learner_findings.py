"""What the learner's tests compare: findings of a job's cases, and how far tensors are apart."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tests.fakes.learner_rig import Case, make_rollouts, run_ranks

ROLLOUTS = make_rollouts()
WHOLE = (ROLLOUTS,)
UNEVEN = (ROLLOUTS[:9], ROLLOUTS[9:])
ONE_SIDED = (ROLLOUTS, ())
BETA = 0.9
"""Of the teacher's average, in `ALL_FIVE`."""


class Found:
    """What a job's cases found, by their names; the job runs at construction."""

    def __init__(self, folder: Path, cases: list[Case], ranks: int) -> None:
        run_ranks(folder, cases, ranks)
        self._folder = folder

    def __getitem__(self, name: str) -> dict:
        return torch.load(self._folder / f"{name}.pt")


def relative(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """|found - expected| / |expected| of all tensors as one vector."""
    assert found.keys() == expected.keys()
    error = sum(float((found[name].detach().double() - expected[name].double()).square().sum()) for name in expected)
    return math.sqrt(error / sum(float(tensor.double().square().sum()) for tensor in expected.values()))


def assert_the_teacher_moved_by_its_share_of_the_gap(found: dict) -> None:
    """The second step's average is float32, and beta times the one before and 1 - beta times the student's masters."""
    for name, before in found["teacher 1"].items():
        masters = found["masters"][name].double()
        expected = BETA * before.double() + (1 - BETA) * masters
        error = float((found["teacher"][name].double() - expected).abs().max())
        assert found["teacher"][name].dtype == torch.float32
        assert error <= 1e-6 * max(float(before.abs().max()), float(masters.abs().max()))

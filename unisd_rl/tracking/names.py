"""The names that trackers show: those of metrics.jsonl in groups, `loss/divergence`, `timing/wait_s`."""

from collections.abc import Mapping
from dataclasses import fields
from math import isfinite
from typing import Any

from unisd_rl.metrics import (
    AnswerMetrics,
    BatchCounts,
    LossMetrics,
    MismatchMetrics,
    OptimizerMetrics,
    PolicyMetrics,
    SignalMetrics,
    TeacherMetrics,
    Timing,
    WeightMetrics,
)

_PARTS: Mapping[type, str] = {
    LossMetrics: "loss",
    OptimizerMetrics: "loss",
    WeightMetrics: "views",
    TeacherMetrics: "views",
    SignalMetrics: "views",
    PolicyMetrics: "actors",
    MismatchMetrics: "actors",
    AnswerMetrics: "actors",
    BatchCounts: "queue",
    Timing: "timing",
}
_GROUP = {field.name: group for part, group in _PARTS.items() for field in fields(part)} | {
    "actors": "actors",
    "actor_idle": "actors",
    "actors_wanted": "actors",
    "depth": "queue",
    "learner_wait": "timing",
    "tokens_per_s": "timing",
}
AXES = ("step", "lineage")
"""Names that stand in no group."""


def grouped(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl by their names in a tracker; nan and what is no number is left out.

    What a part of the step report has no field for is a time or tokens read, or else said by a term of the loss.
    """
    numbers = {name: value for name, value in line.items() if isinstance(value, int | float) and isfinite(value)}
    return {name if name in AXES else f"{_group(name)}/{name}": float(value) for name, value in numbers.items()}


def _group(name: str) -> str:
    return _GROUP.get(name) or ("timing" if name.endswith(("_s", "_tokens")) else "loss")


def flat(numbers: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The numbers of nested ones by their path, `evaluation/interval/low`; what is no number is left out."""
    found: dict[str, float] = {}
    for name, value in numbers.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found[f"{prefix}{name}"] = float(value)
    return found

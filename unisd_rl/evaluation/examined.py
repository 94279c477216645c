"""What is kept of an evaluation once its answers are on storage: the numbers a run is summed up with."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from unisd_rl.evaluation.statistics import Interval


@dataclass(frozen=True, slots=True)
class Examined:
    """One evaluated version. `accuracy` (0 to 1) with its 95 % interval; `retention` where it was measured."""

    lineage: int
    version: int
    problems: int
    accuracy: float
    interval: Interval
    retention: Mapping[str, float] | None

    def to_json(self) -> dict[str, Any]:
        """As it is written, beside whatever else is."""
        return asdict(self)

    @classmethod
    def from_json(cls, numbers: Mapping[str, Any]) -> "Examined":
        """As it was written; other numbers beside it are left alone."""
        fields = {name: numbers[name] for name in cls.__slots__}
        return cls(**{**fields, "interval": Interval(**numbers["interval"])})

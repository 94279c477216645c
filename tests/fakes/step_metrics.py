"""The metrics of an optimiser step that nobody took."""

from collections.abc import Mapping

from unisd_rl.metrics import (
    READ_PARTS,
    BatchCounts,
    LossMetrics,
    MismatchMetrics,
    OptimizerMetrics,
    PolicyMetrics,
    ReadPart,
    SignalMetrics,
    StepMetrics,
    TeacherMetrics,
    Timing,
    WeightMetrics,
)


def step_metrics(
    read_s: Mapping[ReadPart, float] = {}, update_s: float = 0.0, staleness: float = 0.0, tokens: int = 0
) -> StepMetrics:
    """Zeros but for what is named."""
    return StepMetrics(
        step=0,
        loss=LossMetrics(*[0.0] * 10, other_terms={}),
        weights=WeightMetrics(*[0.0] * 7),
        counts=BatchCounts(tokens, 0, 0),
        policy=PolicyMetrics(staleness, staleness, 0.0),
        mismatch=MismatchMetrics(0, *[0.0] * 4),
        signals=SignalMetrics(*[0.0] * 5),
        optimizer=OptimizerMetrics(0.0, 0.0),
        teacher=TeacherMetrics(0.0, 0.0),
        timing=Timing(
            {part: read_s.get(part, 0.0) for part in READ_PARTS}, dict.fromkeys(READ_PARTS, 0), update_s, 0, 0.0
        ),
    )

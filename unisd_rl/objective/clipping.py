"""Divergence clipping: `min(D, threshold)` per token, so that rare outliers do not steer the step.

A token with `D <= threshold` keeps its whole gradient (ties too), one above it has none. The threshold (kappa in the
paper) is a constant, or a quantile of the divergences of the whole optimiser step; then which tokens keep their
gradient is settled once, on the very numbers the quantile came from, since a second computation may round a tie to the
other side.
"""

import torch
from torch import Tensor

from unisd_rl.objective.reduction import quantile


def quantile_threshold(divergence_N: Tensor, fraction: float) -> float | None:
    """The threshold in nats: the quantile (linear interpolation) of the step's gathered divergences; None of none."""
    return quantile(divergence_N, fraction) if divergence_N.numel() else None


def unclipped(divergence_N: Tensor, threshold: float | None) -> Tensor:
    """Which tokens lie at or below the threshold (bool); all of them where nothing is clipped."""
    return torch.ones_like(divergence_N, dtype=torch.bool) if threshold is None else divergence_N <= threshold


def clipped(divergence_N: Tensor, threshold: float | None) -> Tensor:
    """`min(D, threshold)`."""
    return divergence_N if threshold is None else divergence_N.clamp(max=threshold)

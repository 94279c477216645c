"""Divergence clipping: `min(D, threshold)` per token, so that rare outliers do not steer the step.

A token with `D <= threshold` keeps its whole gradient (ties too), one above it has none. The threshold (kappa in the
paper) is a constant, or a quantile of the divergences of the whole optimiser step; then which tokens keep their
gradient is settled once, on the very numbers the quantile came from, since a second computation may round a tie to the
other side.

Ties are common: the answers to one prompt begin with the same token, whose divergence is the same. Read in different
passes they differ by rounding, so a quantile that falls on them includes what is above it by no more than that.
"""

import torch
from torch import Tensor

from unisd_rl.objective.reduction import quantile

_ROUNDING = 1e-5
"""Relative: how far the same divergence may be apart when it is computed in float32 in two ways."""


def quantile_threshold(divergence_N: Tensor, fraction: float) -> float | None:
    """The threshold in nats: the quantile (linear interpolation) of the step's gathered divergences, or the largest of
    those that are equal to it but for rounding; None of none."""
    if not divergence_N.numel():
        return None
    threshold = quantile(divergence_N, fraction)
    return max(threshold, float(divergence_N[divergence_N <= threshold + _ROUNDING * abs(threshold)].max()))


def unclipped(divergence_N: Tensor, threshold: float | None) -> Tensor:
    """Which tokens lie at or below the threshold (bool); all of them where nothing is clipped."""
    return torch.ones_like(divergence_N, dtype=torch.bool) if threshold is None else divergence_N <= threshold


def clipped(divergence_N: Tensor, threshold: float | None) -> Tensor:
    """`min(D, threshold)`."""
    return divergence_N if threshold is None else divergence_N.clamp(max=threshold)

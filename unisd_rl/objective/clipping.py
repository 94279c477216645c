"""Divergence clipping: `min(D, kappa)` per token, so that rare outliers do not steer the step.

A token with `D <= kappa` keeps its whole gradient (ties too), one above it has none. `kappa` is a constant, or a
quantile of the divergences of the whole optimiser step; then which tokens keep their gradient is decided once, on the
very numbers the quantile came from, since a second computation may round a tie to the other side.
"""

import torch
from torch import Tensor

from unisd_rl.objective.reduction import quantile


def clip_threshold(divergence_N: Tensor, clip_quantile: float) -> float | None:
    """kappa in nats: the quantile (linear interpolation) of the step's gathered divergences; None without tokens."""
    return quantile(divergence_N, clip_quantile) if divergence_N.numel() else None


def keeps_gradient(divergence_N: Tensor, kappa: float | None) -> Tensor:
    """Which tokens lie at or below kappa (bool); all of them where nothing is clipped."""
    return torch.ones_like(divergence_N, dtype=torch.bool) if kappa is None else divergence_N <= kappa


def clipped(divergence_N: Tensor, kappa: float | None) -> Tensor:
    """`min(D, kappa)`."""
    return divergence_N if kappa is None else divergence_N.clamp(max=kappa)

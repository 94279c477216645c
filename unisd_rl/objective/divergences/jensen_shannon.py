"""The generalised Jensen-Shannon divergence, and the two KL divergences at its ends.

`alpha = 0`: `KL(P || S)`. `alpha = 1`: `KL(S || P)`. In between, with `M = (1 - alpha) S + alpha P`:
`D = alpha KL(P || M) + (1 - alpha) KL(S || M)`, at most the binary entropy of alpha. All in nats.

Formed from the log ratio `r = log P - log S`, so that identical distributions give exactly zero value and gradient.
"""

import torch
from torch import Tensor

from unisd_rl.config.objective import JensenShannon

# Beyond it S < e^-30 P, and every term in which the ratio's size still counts carries that factor: lost in float32's
# rounding. A larger limit costs digits of r - q below, exp of one above 88 overflows.
_LARGEST_LOG_RATIO = 30.0


def jensen_shannon(
    kind: JensenShannon,
    logS_RV: Tensor,
    logP_RV: Tensor,
    S_RV: Tensor,
    P_RV: Tensor,
    scratch_RV: Tensor,
    slope_RV: Tensor,
) -> Tensor:
    """As `divergences` says."""
    log_ratio_RV = torch.sub(logP_RV, logS_RV, out=scratch_RV)
    if kind.alpha == 0.0:
        divergence_R = _dot(P_RV, log_ratio_RV)
        torch.sub(S_RV, P_RV, out=slope_RV)
    elif kind.alpha == 1.0:
        divergence_R = _dot(S_RV, log_ratio_RV).neg_()
        torch.add(log_ratio_RV, divergence_R[:, None], out=slope_RV).mul_(S_RV).neg_()
    else:
        divergence_R = _mixed(log_ratio_RV, slope_RV, S_RV, P_RV, kind.alpha)
    return divergence_R.clamp_(min=0.0)  # a sum of rounded terms may end just below


def _mixed(log_ratio_RV: Tensor, slope_RV: Tensor, S_RV: Tensor, P_RV: Tensor, alpha: float) -> Tensor:
    """`log M - log S = log1p(alpha expm1(r))`: exact near r = 0, where both KLs nearly cancel."""
    log_ratio_RV.clamp_(max=_LARGEST_LOG_RATIO)
    mixture_RV = torch.expm1(log_ratio_RV, out=slope_RV).mul_(alpha).log1p_()
    student_to_mixture_R = _dot(S_RV, mixture_RV).neg_()
    teacher_to_mixture_R = _dot(P_RV, log_ratio_RV.sub_(mixture_RV))
    # dD/dz_v = (1 - alpha) S_v ((log S_v - log M_v) - KL(S || M))
    mixture_RV.add_(student_to_mixture_R[:, None]).mul_(S_RV).mul_(alpha - 1.0)
    return teacher_to_mixture_R.mul_(alpha).add_(student_to_mixture_R, alpha=1.0 - alpha)


def _dot(left_RV: Tensor, right_RV: Tensor) -> Tensor:
    return (left_RV * right_RV).sum(-1)

"""Total variation, `D = 1/2 sum_v |S_v - P_v|`: the largest difference of probability that any event has; at most 1.

`dD/dz_v = 1/2 S_v (sign(S_v - P_v) - sum_u S_u sign(S_u - P_u))` in the student's logits z.
"""

import torch
from torch import Tensor

from unisd_rl.config.objective import TotalVariation


def total_variation(
    kind: TotalVariation,  # has no setting
    logS_RV: Tensor,
    logP_RV: Tensor,
    S_RV: Tensor,
    P_RV: Tensor,
    scratch_RV: Tensor,
    slope_RV: Tensor,
) -> Tensor:
    """As `divergences` says."""
    gap_RV = torch.sub(S_RV, P_RV, out=scratch_RV)
    divergence_R = torch.abs(gap_RV, out=slope_RV).sum(-1).mul_(0.5)
    sign_RV = gap_RV.sign_()
    mean_R = torch.mul(S_RV, sign_RV, out=slope_RV).sum(-1)
    torch.sub(sign_RV, mean_R[:, None], out=slope_RV).mul_(S_RV).mul_(0.5)
    return divergence_R

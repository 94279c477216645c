"""The generalised Jensen-Shannon divergence over the teacher's K likeliest tokens alone, as where it tells no more.

With a tail all other tokens are one more outcome, which has the rest of the probability:
`S' = (S_1, ..., S_K, 1 - sum)`. Then `dD/dz_v = S_v / S'_b dD/dz_b` for a token v of the tail b. Without it the K are
renormalised, `S' = S / sum`, and no other token has a gradient.
"""

import torch
from torch import Tensor

from unisd_rl.config.objective import JensenShannon, TopK
from unisd_rl.objective.divergences.jensen_shannon import jensen_shannon

_NEVER = -1e30  # for the tail's log-probability where the K are the whole vocabulary: finite, so that differences are


def top_k(
    kind: TopK,
    logS_RV: Tensor,
    logP_RV: Tensor,
    S_RV: Tensor,
    P_RV: Tensor,
    scratch_RV: Tensor,
    slope_RV: Tensor,
) -> Tensor:
    """As `divergences` says."""
    best_RK = logP_RV.topk(min(kind.k, logP_RV.shape[-1])).indices
    logS_RB, logP_RB = (_outcomes(logs_RV, best_RK, kind.tail) for logs_RV in (logS_RV, logP_RV))
    S_RB, P_RB = logS_RB.exp(), logP_RB.exp()
    divergence_R = jensen_shannon(JensenShannon(alpha=kind.alpha), logS_RB, logP_RB, S_RB, P_RB, logP_RB, logS_RB)
    slope_RB = logS_RB  # overwritten
    if kind.tail:
        share_R = slope_RB[:, -1] / S_RB[:, -1].clamp(min=torch.finfo(S_RB.dtype).tiny)
        torch.mul(S_RV, share_R[:, None], out=slope_RV)
    else:
        slope_RV.zero_()
    slope_RV.scatter_(-1, best_RK, slope_RB[:, : best_RK.shape[-1]])
    return divergence_R


def _outcomes(logs_RV: Tensor, best_RK: Tensor, tail: bool) -> Tensor:
    """Log-probabilities of the K tokens, and of all others together; or of the K, renormalised."""
    kept_RK = logs_RV.gather(-1, best_RK)
    if not tail:
        return kept_RK - kept_RK.logsumexp(-1, keepdim=True)
    # Over the others' own log-probabilities: one minus the sum of the K would lose a small tail.
    rest_R = logs_RV.scatter(-1, best_RK, -torch.inf).logsumexp(-1, keepdim=True).clamp(min=_NEVER)
    return torch.cat((kept_RK, rest_R), dim=-1)

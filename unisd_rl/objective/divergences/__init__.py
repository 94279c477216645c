"""The divergences between a teacher's distribution P and the student's S at one position, over the whole vocabulary.

Each is a module with a function of one signature, and a configuration class with its bound; this is their registry.
Everything is formed from log-probabilities, so that probabilities that underflow stay harmless. The functions write
into their arguments: these are buffers of one block of one chunk.

    divergence(kind, logS_RV, logP_RV, S_RV, P_RV, scratch_RV, slope_RV) -> D_R

is the divergence per row, at least 0; its derivative in the student's logits is written to `slope_RV`. `kind` is its
configuration, `logS_RV`, `logP_RV` are log-probabilities, `S_RV`, `P_RV` the probabilities. `scratch_RV` may be
`logP_RV` itself; `slope_RV` may be `logS_RV` itself.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from unisd_rl.config.objective import Divergence, JensenShannon, TopK, TotalVariation
from unisd_rl.objective.divergences.jensen_shannon import jensen_shannon
from unisd_rl.objective.divergences.top_k import top_k
from unisd_rl.objective.divergences.total_variation import total_variation

DIVERGENCES: dict[type[Divergence], Callable[[Any, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    JensenShannon: jensen_shannon,
    TopK: top_k,
    TotalVariation: total_variation,
}

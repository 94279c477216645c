"""Which policy sampled each token, seen from the learner: how far behind it is, and which tokens are its own."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unisd_rl.types import PolicyVersion, Rollout


def token_staleness(rollouts: Iterable[Rollout], version: int, device: torch.device) -> Tensor:
    """float64: the learner's version minus the token's, for every token a policy sampled."""
    return _vector([version - rollout.versions for rollout in rollouts if rollout.versions is not None], device)


def current_tokens(rollouts: Sequence[Rollout], version: PolicyVersion, device: torch.device) -> tuple[Tensor, Tensor]:
    """`engine_N` (float64, nan where no policy sampled) and `own_N` (bool: the learner's version did).

    A version of the same number in another lineage is another policy: it was trained on other batches, or in another
    order of sums.
    """
    nobody = [np.full(len(rollout.completion_tokens), np.nan) for rollout in rollouts]
    logprobs = [
        none if rollout.logprobs is None else rollout.logprobs for rollout, none in zip(rollouts, nobody, strict=True)
    ]
    own = [
        np.zeros(len(rollout.completion_tokens), bool)
        if rollout.versions is None
        else (rollout.versions == version.number) & (rollout.lineages == version.lineage)
        for rollout in rollouts
    ]
    return _vector(logprobs, device), _vector(own, device) == 1.0


def _vector(arrays: Sequence[NDArray], device: torch.device) -> Tensor:
    joined = np.concatenate([np.empty(0, np.float64), *arrays], dtype=np.float64)
    return torch.from_numpy(joined).to(device)

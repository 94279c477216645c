"""Which policy sampled each token, seen from the learner: how far behind it is, and which tokens are its own."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unisd_rl.types import Rollout


def token_staleness(rollouts: Iterable[Rollout], version: int, device: torch.device) -> Tensor:
    """float64: the learner's version minus the token's, for every token a policy sampled."""
    return _vector([version - rollout.versions for rollout in rollouts if rollout.versions is not None], device)


def current_tokens(rollouts: Sequence[Rollout], version: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """`engine_N` (float64, nan where no policy sampled) and `own_N` (bool: the learner's version did)."""
    nobody = [np.full(len(rollout.completion_tokens), np.nan) for rollout in rollouts]
    logprobs = [
        none if rollout.logprobs is None else rollout.logprobs for rollout, none in zip(rollouts, nobody, strict=True)
    ]
    versions = [
        none if rollout.versions is None else rollout.versions for rollout, none in zip(rollouts, nobody, strict=True)
    ]
    return _vector(logprobs, device), _vector(versions, device) == version


def _vector(arrays: Sequence[NDArray], device: torch.device) -> Tensor:
    joined = np.concatenate([np.empty(0, np.float64), *arrays], dtype=np.float64)
    return torch.from_numpy(joined).to(device)

"""Checks of every step, which stop the run: what they find would still train, only not on what one believes.

And which policy sampled each token, seen from the learner: how far behind it is, and which tokens are on-policy.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.sharding import all_gather_ragged
from unisd_rl.errors import RunFailed
from unisd_rl.metrics import MismatchMetrics
from unisd_rl.types import PolicyVersion, Rollout

CONSTANT_NATS = 1e-9
UNIFORM_NATS = 1e-4


def check_teacher_logprobs(primary_N: Tensor, vocabulary: int) -> None:
    """The teacher's log-probs (of all ranks) must tell tokens apart, unless it is certain of all of them.

    At a low temperature, or where every answer begins alike, each sampled token may have the probability 1: the teacher
    then agrees, and there is nothing to learn in this step.

    Raises:
        RunFailed: they are not finite, all `-log(vocabulary)`, or all equal and not 0.
    """
    if primary_N.numel() < 2:
        return
    low, high = float(primary_N.min()), float(primary_N.max())
    if not math.isfinite(low) or not math.isfinite(high):
        raise RunFailed(f"the teacher's log-probs are not finite (from {low} to {high}): its weights are broken")
    if low >= -CONSTANT_NATS:
        return
    uniform = -math.log(vocabulary)
    if abs(low - uniform) < UNIFORM_NATS and abs(high - uniform) < UNIFORM_NATS:
        raise RunFailed(
            f"the teacher finds each of the {vocabulary} tokens equally likely everywhere (log-prob {uniform:.4f}): "
            "it has not learnt anything, so nothing can be learnt from it; check model.path"
        )
    if high - low <= CONSTANT_NATS:
        raise RunFailed(
            f"the teacher gives all {primary_N.numel()} tokens of this step the same log-prob {low:.6g}: "
            "its weights or the views it reads are broken"
        )


def check_finite(what: str, value: float) -> None:
    """A number of the step must be finite: once broken it spreads to every weight.

    Raises:
        RunFailed: `value` is infinite or no number.
    """
    if not math.isfinite(value):
        raise RunFailed(f"the {what} of this step is {value}: lower learner.learning_rate, or check the model")


def logprob_mismatch(engine_N: Tensor, learner_N: Tensor, tolerance: float) -> MismatchMetrics:
    """Engine and learner on the given tokens of all ranks: the same policy, up to how each rounds. A collective.

    Raises:
        RunFailed: they are further apart than rounding explains, naming the log-probs that differ most.
    """
    engine, learner = (all_gather_ragged(logprob_N.double()).cpu().numpy() for logprob_N in (engine_N, learner_N))
    mismatch = MismatchMetrics.between(engine, learner)
    if mismatch.exceeds(tolerance):
        worst = int(np.nan_to_num(np.abs(engine - learner), nan=math.inf).argmax())
        raise RunFailed(
            f"engine and learner differ by {mismatch.describe()}, under the same version: the engine says "
            f"{engine[worst]:.6g}, the learner {learner[worst]:.6g} (learner.logprob_tolerance = {tolerance:g})"
        )
    return mismatch


def token_staleness(rollouts: Iterable[Rollout], version: int, device: torch.device) -> Tensor:
    """float64: the learner's version minus the token's, for every token a policy sampled."""
    return _vector([version - rollout.versions for rollout in rollouts if rollout.versions is not None], device)


def current_tokens(rollouts: Sequence[Rollout], version: PolicyVersion, device: torch.device) -> tuple[Tensor, Tensor]:
    """`engine_N` (float64, nan where no policy sampled) and `on_policy_N` (bool: the learner's version did).

    A version of the same number in another lineage is another policy: it was trained on other batches, or in another
    order of sums.
    """
    logprobs, on_policy = [], []
    for rollout in rollouts:
        tokens = len(rollout.completion_tokens)
        logprobs.append(np.full(tokens, np.nan) if rollout.logprobs is None else rollout.logprobs)
        on_policy.append(
            np.zeros(tokens, bool)
            if rollout.versions is None
            else (rollout.versions == version.number) & (rollout.lineages == version.lineage)
        )
    return _vector(logprobs, device), _vector(on_policy, device) == 1.0


def _vector(arrays: Sequence[NDArray], device: torch.device) -> Tensor:
    joined = np.concatenate([np.empty(0, np.float64), *arrays], dtype=np.float64)
    return torch.from_numpy(joined).to(device)

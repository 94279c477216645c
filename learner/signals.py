"""Signals of a step that its loss does not show: how sure policy and teacher are, and what the answers are like.

Entropies are exact, of at most 32 tokens of each forward pass, spread over it: a few rows of the head. The others are
counts over token ids. `driver/alarms.py` watches them.

Shape letters: N tokens of a pass, n those of them that are looked at, S completions, H hidden width.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.sharding import all_reduce_sum
from unisd_rl.metrics import SignalMetrics
from unisd_rl.objective.kernels.chunked import token_entropies
from unisd_rl.objective.kernels.head import Head
from unisd_rl.types import Rollout, Tokens, ViewKind

NGRAM = 4
"""Tokens in a row that count as repeated or copied."""
_TOKENS_PER_PASS = 32


def sampled_entropies(hidden_NH: Tensor, head: Head, temperature: float) -> Tensor:
    """`entropy_n`, nats, float32: of the distributions at `temperature` at tokens spread over those of the pass."""
    step = max(1, math.ceil(len(hidden_NH) / _TOKENS_PER_PASS))
    return token_entropies(hidden_NH[::step], head, temperature, _TOKENS_PER_PASS)


def repeated_share(completion: Tokens) -> float:
    """Share of the completion's n-grams that stand in it earlier; nan if it has none."""
    grams = _ngrams(completion)
    return 1.0 - len(set(grams)) / len(grams) if grams else math.nan


def copied_share(completion: Tokens, context: Tokens, prompt: Tokens) -> float:
    """Share of the completion's n-grams that stand in the teacher's context and not in the student's prompt."""
    grams, only_there = _ngrams(completion), set(_ngrams(context)) - set(_ngrams(prompt))
    return sum(gram in only_there for gram in grams) / len(grams) if grams else math.nan


def signal_metrics(
    rollouts: Sequence[Rollout],
    policy_entropies: Sequence[Tensor],
    teacher_entropies: Sequence[Tensor],
    device: torch.device,
) -> SignalMetrics:
    """Means over the step, from the entropies of this rank's passes; nan where there is nothing. A collective."""
    completions = [rollout.completion_tokens for rollout in rollouts]
    signals = [
        _numbers(policy_entropies),
        _numbers(teacher_entropies),
        np.array([len(tokens) for tokens in completions], np.float64),
        np.array([repeated_share(tokens) for tokens in completions], np.float64),
        np.array([_copied(rollout) for rollout in rollouts], np.float64),
    ]
    sums = [float(np.nansum(signal)) for signal in signals]
    counts = [float(np.isfinite(signal).sum()) for signal in signals]
    of_all = all_reduce_sum([*sums, *counts], device)
    totals = zip(of_all[: len(signals)], of_all[len(signals) :], strict=True)
    return SignalMetrics(*(total / count if count else math.nan for total, count in totals))


def _copied(rollout: Rollout) -> float:
    primary = next((view.tokens for view in rollout.views if view.kind is ViewKind.PRIMARY), None)
    return math.nan if primary is None else copied_share(rollout.completion_tokens, primary, rollout.prompt_tokens)


def _numbers(parts: Sequence[Tensor]) -> NDArray[np.float64]:
    return np.concatenate([np.empty(0), *(part.cpu().numpy() for part in parts)])


def _ngrams(tokens: Tokens) -> list[bytes]:
    data, size = tokens.astype(np.int32).tobytes(), 4 * NGRAM
    return [data[start : start + size] for start in range(0, len(data) - size + 1, 4)]

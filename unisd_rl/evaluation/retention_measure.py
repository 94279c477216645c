"""Measuring retention: completions read with a model and with its base.

Logits exist for a chunk of tokens at a time; no tensor of all tokens by the vocabulary does.

Shape letters: N completion tokens of one pass, B completions, L padded length, H hidden size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from learner.batch import collate
from learner.model import CausalLM
from unisd_rl.config.objective import JensenShannon
from unisd_rl.errors import UserError
from unisd_rl.evaluation.retention import Completion, Drift, Likelihood, Retention
from unisd_rl.objective.kernels.chunked import token_divergence, token_logprobs

_TEMPERATURE, _DIVERGENCE = 1.0, JensenShannon(alpha=0.5)
Measured = TypeVar("Measured")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Limits on memory: completions in a forward pass, tokens with vocabulary-wide logits at a time."""

    batch_size: int
    chunk_tokens: int


@torch.no_grad()
def retention(
    adapted: CausalLM, base: CausalLM, gold: Sequence[Completion], answers: Sequence[Completion], sizes: Sizes
) -> Retention:
    """Read `gold` with the adapted model and `answers` with both, all under the same tokenizer.

    Raises:
        UserError: the vocabularies differ in size, so no divergence is defined.
    """
    _check_same_vocabulary(adapted, base)
    return Retention(
        gold=tuple(_by_batches(gold, sizes, lambda batch: _likelihoods(adapted, batch, sizes))),
        answers=tuple(_by_batches(answers, sizes, lambda batch: _drifts(adapted, base, batch, sizes))),
    )


def _by_batches(
    completions: Sequence[Completion], sizes: Sizes, measure: Callable[[Sequence[Completion]], list[Measured]]
) -> list[Measured]:
    """The results of `measure` for the completions that have tokens, in order; read shortest first, to pad little."""
    nonempty = [completion for completion in completions if completion.tokens]
    order = sorted(
        range(len(nonempty)), key=lambda index: len(nonempty[index].prompt_tokens) + len(nonempty[index].tokens)
    )
    results: dict[int, Measured] = {}
    for start in range(0, len(order), sizes.batch_size):
        indices = order[start : start + sizes.batch_size]
        results |= zip(indices, measure([nonempty[index] for index in indices]), strict=True)
    return [results[index] for index in range(len(nonempty))]


def _likelihoods(model: CausalLM, batch: Sequence[Completion], sizes: Sizes) -> list[Likelihood]:
    hidden_NH, targets_N = _read(model, batch)
    logprob_N = token_logprobs(hidden_NH, model.head(), targets_N, _TEMPERATURE, sizes.chunk_tokens)
    return _likelihoods_of(batch, logprob_N)


def _drifts(adapted: CausalLM, base: CausalLM, batch: Sequence[Completion], sizes: Sizes) -> list[Drift]:
    adapted_NH, _ = _read(adapted, batch)
    base_NH, targets_N = _read(base, batch)
    heads = adapted.head(), base.head()
    logprob_N = token_logprobs(base_NH, heads[1], targets_N, _TEMPERATURE, sizes.chunk_tokens)
    divergence_N = token_divergence(
        adapted_NH, heads[0], base_NH, heads[1], _DIVERGENCE, _TEMPERATURE, sizes.chunk_tokens
    )
    pairs = zip(_likelihoods_of(batch, logprob_N), _sums(batch, divergence_N), strict=True)
    return [Drift(likelihood, divergence) for likelihood, divergence in pairs]


def _read(model: CausalLM, batch: Sequence[Completion]) -> tuple[Tensor, Tensor]:
    """`hidden_NH` at the positions that predict the completions' tokens, one after the other, and those tokens `_N`."""
    pairs = [(np.array(each.prompt_tokens, np.int32), np.array(each.tokens, np.int32)) for each in batch]
    inputs = collate(pairs, "padded", device=model.head().weight_VH.device)
    return model(inputs, lambda hidden_NH, _: hidden_NH), inputs.targets_N


def _likelihoods_of(batch: Sequence[Completion], logprob_N: Tensor) -> list[Likelihood]:
    pairs = zip(batch, _sums(batch, logprob_N), strict=True)
    return [Likelihood(each.id, each.sample, len(each.tokens), logprob) for each, logprob in pairs]


def _sums(batch: Sequence[Completion], value_N: Tensor) -> list[float]:
    """The sum over each completion's tokens, in float64."""
    parts = value_N.double().split([len(completion.tokens) for completion in batch])
    return [float(part.sum()) for part in parts]


def _check_same_vocabulary(adapted: CausalLM, base: CausalLM) -> None:
    adapted_tokens, base_tokens = len(adapted.head().weight_VH), len(base.head().weight_VH)
    if adapted_tokens != base_tokens:
        raise UserError(
            f"the base of --retention has {base_tokens} tokens in its vocabulary and the model {adapted_tokens}: "
            "retention compares a model with the one it was trained from; name that one"
        )

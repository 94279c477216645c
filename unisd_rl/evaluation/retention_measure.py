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
Found = TypeVar("Found")


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
    completions: Sequence[Completion], sizes: Sizes, measure: Callable[[Sequence[Completion]], list[Found]]
) -> list[Found]:
    """What `measure` finds in those that have tokens, in their order; read shortest first, to pad little."""
    nonempty = [one for one in completions if one.tokens]
    order = sorted(
        range(len(nonempty)), key=lambda index: len(nonempty[index].prompt_tokens) + len(nonempty[index].tokens)
    )
    found: dict[int, Found] = {}
    for start in range(0, len(order), sizes.batch_size):
        places = order[start : start + sizes.batch_size]
        found |= zip(places, measure([nonempty[place] for place in places]), strict=True)
    return [found[place] for place in range(len(nonempty))]


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
    pairs = [(np.array(one.prompt_tokens, np.int32), np.array(one.tokens, np.int32)) for one in batch]
    inputs = collate(pairs, packed=False, device=model.head().weight_VH.device)
    return model(inputs, lambda hidden_NH, _: hidden_NH), inputs.targets_N


def _likelihoods_of(batch: Sequence[Completion], logprob_N: Tensor) -> list[Likelihood]:
    pairs = zip(batch, _sums(batch, logprob_N), strict=True)
    return [Likelihood(one.id, one.sample, len(one.tokens), logprob) for one, logprob in pairs]


def _sums(batch: Sequence[Completion], value_N: Tensor) -> list[float]:
    """The sum over each completion's tokens, in float64."""
    parts = value_N.double().split([len(one.tokens) for one in batch])
    return [float(part.sum()) for part in parts]


def _check_same_vocabulary(adapted: CausalLM, base: CausalLM) -> None:
    sizes = len(adapted.head().weight_VH), len(base.head().weight_VH)
    if sizes[0] != sizes[1]:
        raise UserError(
            f"the base of --retention has {sizes[1]} tokens in its vocabulary and the model {sizes[0]}: retention is "
            "of a model and what it was trained from; name that one"
        )

"""Retention in numbers (method.md, section 6): sums over a completion, from which everything else follows.

    PPLfit = exp(-mean log p_adapted(gold token))        gold completions
    PPLret = exp(-mean log p_base(sampled token))        the adapted model's own completions
    JSD    = mean of JSD(adapted || base) per position   along those completions; temperature 1, weight 1/2, nats

Pooled numbers take the mean over all tokens of the set, per-example ones first over a completion's tokens and then
over completions. Long completions count more in the former.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_LARGEST_EXPONENT = 700.0  # beyond it a float overflows


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt and its completion, as the tokens that were sampled (text is never tokenised again)."""

    id: str
    sample: int
    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Likelihood:
    """One completion under one model: the sum of its tokens' log-probs in nats."""

    id: str
    sample: int
    tokens: int
    logprob: float

    @property
    def perplexity(self) -> float:
        """`exp(-mean log-prob)`."""
        return _perplexity(self.logprob, self.tokens)


@dataclass(frozen=True, slots=True)
class Drift:
    """One completion of the adapted model: its likelihood under the base, and the sum of the positions' JSD in nats."""

    likelihood: Likelihood
    divergence: float

    @property
    def jsd(self) -> float:
        """Mean over its positions."""
        return self.divergence / self.likelihood.tokens


@dataclass(frozen=True, slots=True)
class Retention:
    """Gold completions under the adapted model, and its own completions beside the base; those without tokens left out.

    A number over no completion is nan.
    """

    gold: tuple[Likelihood, ...]
    answers: tuple[Drift, ...]

    @property
    def ppl_fit(self) -> float:
        """PPLfit, tokens pooled."""
        return _pooled(self.gold)

    @property
    def ppl_fit_per_example(self) -> float:
        """PPLfit, mean over completions."""
        return _mean([gold.perplexity for gold in self.gold])

    @property
    def ppl_ret(self) -> float:
        """PPLret, tokens pooled."""
        return _pooled([drift.likelihood for drift in self.answers])

    @property
    def ppl_ret_per_example(self) -> float:
        """PPLret, mean over completions."""
        return _mean([drift.likelihood.perplexity for drift in self.answers])

    @property
    def jsd(self) -> float:
        """JSD, tokens pooled."""
        tokens = sum(drift.likelihood.tokens for drift in self.answers)
        return sum(drift.divergence for drift in self.answers) / tokens if tokens else math.nan

    @property
    def jsd_per_example(self) -> float:
        """JSD, mean over completions."""
        return _mean([drift.jsd for drift in self.answers])

    def to_json(self) -> dict[str, float]:
        """The six numbers, and how many tokens they are of."""
        return {
            "ppl_fit": self.ppl_fit,
            "ppl_fit_per_example": self.ppl_fit_per_example,
            "ppl_ret": self.ppl_ret,
            "ppl_ret_per_example": self.ppl_ret_per_example,
            "jsd": self.jsd,
            "jsd_per_example": self.jsd_per_example,
            "gold_tokens": sum(gold.tokens for gold in self.gold),
            "answer_tokens": sum(drift.likelihood.tokens for drift in self.answers),
        }


def _pooled(likelihoods: Sequence[Likelihood]) -> float:
    return _perplexity(sum(each.logprob for each in likelihoods), sum(each.tokens for each in likelihoods))


def _perplexity(logprob: float, tokens: int) -> float:
    if not tokens:
        return math.nan
    exponent = -logprob / tokens
    return math.inf if exponent > _LARGEST_EXPONENT else math.exp(exponent)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan

"""Statistics of an evaluation: intervals of one score, and of the difference of two on the same problems.

Everything is a pure function of counts or of one number per problem. Levels are 95 % unless they say otherwise.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

_LEVEL = 0.95
_RESAMPLES, _RESAMPLES_AT_A_TIME = 10_000, 500


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval of a score, from `low` to `high`."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """A second model against a first one on the same problems. `difference` is second minus first, in score (0 to 1).

    `only_first` and `only_second` count the problems that only one of the two got right, and `mcnemar_p` is the exact
    two-sided p-value of that; None where problems were answered more than once, so that right is no yes or no.
    """

    problems: int
    difference: float
    interval: Interval
    only_first: int | None
    only_second: int | None
    mcnemar_p: float | None


def wilson_interval(successes: float, trials: int) -> Interval:
    """Wilson's score interval of a share (1927): stays within 0 and 1, and is not empty at either end.

    `successes` may be a sum of scores between 0 and 1. They vary less than yes and no with the same mean do, so the
    interval is then rather too wide than too narrow.
    """
    z = NormalDist().inv_cdf(0.5 + _LEVEL / 2)
    share, shrink = successes / trials, 1 + z * z / trials
    centre = share + z * z / (2 * trials)
    reach = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return Interval(max(0.0, (centre - reach) / shrink), min(1.0, (centre + reach) / shrink))


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The chance that at least one of `k` answers is right, from `correct` right ones among `samples`.

    `1 - C(n - c, k) / C(n, k)`: unbiased (Chen et al. 2021, arXiv 2107.03374, equation 1).
    """
    if k > samples:
        raise ValueError(f"pass@{k} needs at least {k} answers a problem, not {samples}")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def mean_interval(scores: Sequence[float], seed: int = 0) -> Interval:
    """Percentile bootstrap of a mean over problems: 10,000 draws of all problems with replacement.

    Empty where all scores are equal: it knows no other problems than these.
    """
    score_P = np.asarray(scores, np.float64)
    draw, means = np.random.default_rng(seed), []
    for _ in range(_RESAMPLES // _RESAMPLES_AT_A_TIME):
        drawn = draw.integers(len(score_P), size=(_RESAMPLES_AT_A_TIME, len(score_P)))
        means.append(score_P[drawn].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), [0.5 - _LEVEL / 2, 0.5 + _LEVEL / 2])
    return Interval(float(low), float(high))


def compare(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Comparison:
    """Two models by their scores (0 to 1) on the same problems, in order; the bootstrap draws whole problems."""
    differences = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    interval = mean_interval(differences.tolist(), seed)
    decided = set(first) | set(second) <= {0.0, 1.0}
    only_first, only_second = int((differences < 0).sum()), int((differences > 0).sum())
    return Comparison(
        problems=len(differences),
        difference=float(differences.mean()),
        interval=interval,
        only_first=only_first if decided else None,
        only_second=only_second if decided else None,
        mcnemar_p=mcnemar_p(only_first, only_second) if decided else None,
    )


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact McNemar test (two-sided): under equality, either model is the right one of a discordant pair evenly."""
    from scipy.stats import binomtest  # half a second of imports, only where models are compared

    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def describe_cut(cut: int, answers: int, limit: int) -> str:
    """What belongs beside an accuracy where `cut` answers were ended at `limit` tokens: those count as wrong."""
    return f"{cut} of {answers} answers were cut at {limit} tokens: raise rollout.max_completion_tokens"


def describe_silent(silent: int, answers: int) -> str:
    """What belongs beside an accuracy where the grader read no answer in `silent` of them: those count as wrong."""
    return f"{silent} of {answers} answers state no answer that the grader reads"


@dataclass(frozen=True, slots=True)
class EvaluationSummary:
    """The numbers of one evaluated version that a run is summed up with, once its answers are on storage.

    `accuracy` is from 0 to 1, with its 95 % interval; `retention` is None where it was not measured. `samples` answers
    a problem, of which the limit on tokens ended `cut` in all.
    """

    lineage: int
    version: int
    problems: int
    samples: int
    cut: int
    accuracy: float
    interval: Interval
    retention: Mapping[str, float] | None
    choice: Mapping[str, Any] | None = None
    """Of multiple choice what tells form from knowledge (`ChoiceScores`)."""

    @classmethod
    def from_json(cls, numbers: Mapping[str, Any]) -> "EvaluationSummary":
        """The inverse of `dataclasses.asdict`; other numbers are ignored."""
        fields = {name: numbers[name] for name in cls.__slots__ if name != "choice" or name in numbers}
        return cls(**{**fields, "interval": Interval(**numbers["interval"])})

"""The passes without gradient of one step: what every view says about each completion token.

Views are not equal. The primary keeps its hidden states, from which the gradient pass forms the whole distribution;
auxiliary and negative views leave one log-prob per token, and are read together, sorted by length.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.batch import Padded, Reading, Share, passes
from learner.ranks import largest
from learner.settings import ViewCounts
from learner.stopwatch import Stopwatch
from learner.student import Student
from learner.teacher import Teacher
from unisd_rl.objective.chunked import realised_logprobs, token_divergence
from unisd_rl.objective.head import Head
from unisd_rl.objective.settings import ObjectiveSettings
from unisd_rl.objective.unisd import TokenSignals


@dataclass(frozen=True, slots=True)
class Scores:
    """What the teacher's views said about one rank's share; N tokens in packed order."""

    primary_N: Tensor
    primary_NH: Tensor
    auxiliary_KN: Tensor | None
    negative_N: Tensor | None


class Scorer:
    """Runs the teacher over all views of a share, in passes of at most `size` readings."""

    def __init__(self, teacher: Teacher, settings: ObjectiveSettings, views: ViewCounts, size: int) -> None:
        self._teacher = teacher
        self._settings = settings
        self._views = views
        self._size = size

    def score(self, share: Share, watch: Stopwatch) -> Scores:
        """Every view the objective needs. A collective."""
        with watch.measure("primary"):
            primary_N, primary_NH = self._primary(share, watch)
        with watch.measure("other_views"):
            auxiliary_KN, negative_N = self._others(share, watch)
        return Scores(primary_N, primary_NH, auxiliary_KN, negative_N)

    def _primary(self, share: Share, watch: Stopwatch) -> tuple[Tensor, Tensor]:
        logprob_N = torch.zeros(share.tokens, device=share.device)
        states: list[tuple[Tensor, Tensor]] = []
        for group in agreed_passes(share.by_length(share.primaries()), self._size, share):
            padded = share.pad(group)
            hidden_nH, logprob_N[padded.places_N] = self._teacher.read(padded, self._states_and_logprobs(padded))
            states.append((padded.places_N, hidden_nH))
            watch.count("primary", padded.read)
        hidden_NH = torch.cat([hidden_nH for _, hidden_nH in states])
        places_N = torch.cat([places_n for places_n, _ in states])
        return logprob_N, torch.empty_like(hidden_NH).index_copy_(0, places_N, hidden_NH)

    def _others(self, share: Share, watch: Stopwatch) -> tuple[Tensor | None, Tensor | None]:
        lines = self._views.auxiliary + self._views.negative
        if not lines:
            return None, None
        readings = share.auxiliaries(self._views.auxiliary) if self._views.auxiliary else []
        readings += share.negatives(line=self._views.auxiliary) if self._views.negative else []
        logprob = torch.zeros(lines * share.tokens, device=share.device)
        for group in agreed_passes(share.by_length(readings), self._size, share):
            padded = share.pad(group)
            logprob[padded.places_N] = self._teacher.read(padded, self._logprobs(padded))
            watch.count("other_views", padded.read)
        logprob_LN = logprob.view(lines, share.tokens)
        auxiliary_KN = logprob_LN[: self._views.auxiliary] if self._views.auxiliary else None
        return auxiliary_KN, logprob_LN[-1] if self._views.negative else None

    def _logprobs(self, padded: Padded) -> "_Logprobs":
        return _Logprobs(padded.targets_N, self._settings.temperature, self._settings.chunk_tokens)

    def _states_and_logprobs(self, padded: Padded) -> "_StatesAndLogprobs":
        return _StatesAndLogprobs(self._logprobs(padded))


@dataclass(frozen=True, slots=True)
class _Logprobs:
    targets_N: Tensor
    temperature: float
    chunk_tokens: int

    def __call__(self, hidden_NH: Tensor, head: Head) -> Tensor:
        return realised_logprobs(hidden_NH, head, self.targets_N, self.temperature, self.chunk_tokens)


@dataclass(frozen=True, slots=True)
class _StatesAndLogprobs:
    logprobs: _Logprobs

    def __call__(self, hidden_NH: Tensor, head: Head) -> tuple[Tensor, Tensor]:
        return hidden_NH, self.logprobs(hidden_NH, head)


def student_divergences(
    share: Share, student: Student, scores: Scores, teacher_head: Head | None, settings: ObjectiveSettings, size: int
) -> Tensor:
    """`divergence_N` of the student to the primary view, without gradient, for a quantile clip. A collective."""
    found = []
    for group in agreed_passes(share.students(), size, share):
        padded = share.pad(group)
        measure = _Divergences(scores.primary_NH[padded.places_N], teacher_head, settings)
        found.append(student.read(padded, measure))
    return torch.cat(found)


@dataclass(frozen=True, slots=True)
class _Divergences:
    teacher_NH: Tensor
    teacher_head: Head | None
    settings: ObjectiveSettings

    def __call__(self, hidden_NH: Tensor, head: Head) -> Tensor:
        settings = self.settings
        assert settings.alpha is not None
        rest = (settings.alpha, settings.temperature, settings.chunk_tokens)
        return token_divergence(hidden_NH, head, self.teacher_NH, self.teacher_head or head, *rest)


def signals(share: Share, scores: Scores, divergence_N: Tensor | None) -> TokenSignals:
    """The numbers from which weights, thresholds and denominators of the whole step are made."""
    return TokenSignals(
        sequence_N=share.sequence_N,
        sequences=len(share.rollouts),
        primary_N=scores.primary_N,
        auxiliary_KN=scores.auxiliary_KN,
        negative_N=scores.negative_N,
        has_negative_S=None if scores.negative_N is None else share.has_negative(),
        divergence_N=divergence_N,
    )


def agreed_passes(readings: Sequence[Reading], size: int, share: Share) -> list[Sequence[Reading]]:
    """This rank's readings in as many passes as the busiest rank needs, at least one. A collective."""
    (count,) = largest([math.ceil(len(readings) / size)], share.device)
    return list(passes(readings, size, max(int(count), 1)))

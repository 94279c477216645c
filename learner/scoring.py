"""The teacher's passes of one step: what every view says about each completion token, without gradient.

Views are not equal (`plan.py`). Where the whole distribution is needed a view keeps its final hidden states, from which
the gradient pass forms it; the others leave one log-prob per token. All kinds are read together, in as few passes as
the budget of tokens allows.

Shape letters: N completion tokens of the rank's batch in its order, n those of one pass, L views of the plan, K
auxiliary views, H hidden width.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from learner.batch import Inputs, InputSequence, Pass, RankBatch
from learner.plan import ScoringPlan, ViewSpec
from learner.sharding import all_reduce_max
from learner.signals import sampled_entropies
from learner.step_timer import StepTimer
from learner.student import Student
from learner.teacher import Teacher
from unisd_rl.config.objective import ObjectiveSettings
from unisd_rl.objective.kernels.chunked import token_divergence, token_logprobs
from unisd_rl.objective.kernels.head import Head
from unisd_rl.objective.step import ScoringInputs
from unisd_rl.types import ViewKind


@dataclass(frozen=True, slots=True)
class Scores:
    """Per token of a rank's batch; None for what no term needs. Tokens without a negative view have a log-prob of nan
    and hidden states of zeros there."""

    inputs: ScoringInputs
    """Log-probs of the target tokens under all views."""
    primary_NH: Tensor | None
    """Final hidden states of the primary view."""
    negative_NH: Tensor | None
    """Final hidden states of the negative view."""
    probe_n: Tensor
    """Log-probs under the primary view, whether or not a term needs them: if not, of a few tokens a pass."""
    entropies: Sequence[Tensor]
    """`entropy_n` of the primary view, of some tokens of each pass."""


_PROBES_PER_PASS = 64


@dataclass(frozen=True, slots=True)
class _Span:
    """The tokens of one view in one pass."""

    view: int
    spec: ViewSpec
    tokens: slice


class ScoreBuffer:
    """Scores hidden states pass by pass and collects the results."""

    def __init__(self, plan: ScoringPlan, batch: RankBatch, settings: ObjectiveSettings) -> None:
        self._plan, self._batch, self._settings = plan, batch, settings
        # nan: a log-prob that no pass wrote is then found, while 0 would be a teacher that is certain.
        self._logprob_LN = torch.full((len(plan.specs), batch.tokens), math.nan, device=batch.device)
        self._states: dict[int, Tensor] = {}
        self._probes = [torch.empty(0, device=batch.device)]
        self._entropies: list[Tensor] = []

    def collect(self, inputs: Inputs, spans: Sequence[_Span], hidden_nH: Tensor, head: Head) -> None:
        """Score the hidden states of one pass, where they and the head exist."""

        def logprobs(tokens: slice, temperature: float) -> Tensor:
            targets_n = inputs.targets_N[tokens]
            return token_logprobs(hidden_nH[tokens], head, targets_n, temperature, self._settings.chunk_tokens)

        for temperature, tokens in _same_temperature_spans(spans):
            self._logprob_LN.view(-1)[inputs.result_index_N[tokens]] = logprobs(tokens, temperature)
        for span in spans:
            if span.spec.states:
                self._record_hidden_states(span.view, inputs.result_index_N[span.tokens], hidden_nH[span.tokens])
            if span.spec.kind is ViewKind.PRIMARY:
                states_nH = hidden_nH[span.tokens]
                self._entropies.append(sampled_entropies(states_nH, head, self._settings.temperature))
            if span.spec.kind is ViewKind.PRIMARY and span.spec.temperature is None:
                probes = slice(span.tokens.start, min(span.tokens.stop, span.tokens.start + _PROBES_PER_PASS))
                self._probes.append(logprobs(probes, self._settings.temperature))

    def scores(self) -> Scores:
        """All that was collected, after the last pass."""
        auxiliary, negative = (self._plan.specs_of(kind) for kind in (ViewKind.AUXILIARY, ViewKind.NEGATIVE))
        primary_N = self._logprobs_of(ViewKind.PRIMARY)
        inputs = ScoringInputs(
            sequence_N=self._batch.sequence_N,
            sequences=len(self._batch.rollouts),
            primary_N=primary_N,
            auxiliary_KN=self._logprob_LN[list(auxiliary)] if auxiliary else None,
            negative_N=self._logprobs_of(ViewKind.NEGATIVE),
            has_negative_S=self._batch.has_view(self._plan.specs[negative[0]]) if negative else None,
            divergence_N=None,
            order_S=self._batch.order(),
        )
        probe_n = torch.cat(self._probes) if primary_N is None else primary_N
        return Scores(
            inputs, self._states_of(ViewKind.PRIMARY), self._states_of(ViewKind.NEGATIVE), probe_n, self._entropies
        )

    def _record_hidden_states(self, view: int, result_index_n: Tensor, hidden_nH: Tensor) -> None:
        """Write the hidden states of one view; without tokens they still show how wide they are."""
        if view not in self._states:
            self._states[view] = hidden_nH.new_zeros(self._batch.tokens, hidden_nH.shape[-1])
        self._states[view][result_index_n - view * self._batch.tokens] = hidden_nH

    def _logprobs_of(self, kind: ViewKind) -> Tensor | None:
        views = [view for view in self._plan.specs_of(kind) if self._plan.specs[view].temperature is not None]
        return self._logprob_LN[views[0]] if views else None

    def _states_of(self, kind: ViewKind) -> Tensor | None:
        views = [view for view in self._plan.specs_of(kind) if self._plan.specs[view].states]
        return self._states[views[0]] if views else None


class Scorer:
    """Runs the teacher over the views of a plan; without a teacher there is nothing to run."""

    def __init__(self, teacher: Teacher | None, plan: ScoringPlan, settings: ObjectiveSettings) -> None:
        assert (teacher is not None) == plan.needs_teacher, "a teacher is there exactly where a view is read"
        self._teacher, self._plan, self._settings = teacher, plan, settings

    def score(self, batch: RankBatch, timer: StepTimer) -> Scores:
        """Every view the objective needs. A collective."""
        buffer = ScoreBuffer(self._plan, batch, self._settings)
        if self._teacher is not None:
            for one in agreed_passes(batch.scoring_passes(batch.view_sequences(self._plan.specs)), batch):
                inputs = batch.collate(one)
                self._teacher.forward(inputs, partial(buffer.collect, inputs, self._spans(batch, one.sequences)))
                timer.count_pass(inputs)
                for sequence, tokens in zip(one.sequences, inputs.read, strict=True):
                    timer.count_tokens(self._plan.specs[sequence.view].kind.value, tokens)
        return buffer.scores()

    def _spans(self, batch: RankBatch, sequences: Sequence[InputSequence]) -> list[_Span]:
        """Which of a pass's tokens belong to which view, also of views without a token here."""
        tokens: Counter[int] = Counter()
        for sequence in sequences:
            tokens[sequence.view] += batch.predicted(sequence)
        spans, start = [], 0
        for view, spec in enumerate(self._plan.specs):
            spans.append(_Span(view, spec, slice(start, start + tokens[view])))
            start += tokens[view]
        return spans


def _same_temperature_spans(spans: Sequence[_Span]) -> Iterator[tuple[float, slice]]:
    """Neighbouring views at one temperature are one span of tokens: one use of the head."""
    for temperature, neighbours in groupby(spans, key=lambda span: span.spec.temperature):
        tokens = [span.tokens for span in neighbours]
        if temperature is not None:
            yield temperature, slice(tokens[0].start, tokens[-1].stop)


def student_divergences(
    batch: RankBatch,
    student: Student,
    teacher_NH: Tensor,
    teacher_head: Head | None,
    settings: ObjectiveSettings,
    timer: StepTimer,
) -> Tensor:
    """`divergence_N` of the student to the primary view, without gradient, for a quantile clip. A collective.

    `teacher_head` None: the student's own.
    """
    divergence_N = torch.zeros(batch.tokens, device=batch.device)
    for one in agreed_passes(batch.scoring_passes(batch.student_sequences()), batch):
        inputs = batch.collate(one)

        def on_hidden(hidden_nH: Tensor, head: Head, teacher_nH: Tensor = teacher_NH[inputs.result_index_N]) -> Tensor:
            return divergences(hidden_nH, head, teacher_nH, teacher_head, settings)

        divergence_N[inputs.result_index_N] = student.forward(inputs, on_hidden)
        timer.count_pass(inputs)
        timer.count_tokens("divergence", inputs.tokens)
    return divergence_N


def divergences(
    hidden_NH: Tensor, head: Head, teacher_NH: Tensor, teacher_head: Head | None, settings: ObjectiveSettings
) -> Tensor:
    """`divergence_N` of the student's states to the teacher's, no gradient; `teacher_head` None: the student's."""
    assert settings.divergence is not None, "a clip has a divergence"
    sizes = (settings.temperature, settings.chunk_tokens)
    return token_divergence(hidden_NH, head, teacher_NH, teacher_head or head, settings.divergence, *sizes)


def agreed_passes(passes: Sequence[Pass], batch: RankBatch) -> list[Pass]:
    """This rank's passes, and empty ones up to what the busiest rank needs, at least one. A collective.

    Ranks that run unequal numbers of passes hang ZeRO-3.
    """
    (count,) = all_reduce_max([len(passes)], batch.device)
    return [*passes, *(batch.empty_pass() for _ in range(max(int(count), 1) - len(passes)))]

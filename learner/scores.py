"""What the teacher's views said about one rank's share, and the tally that collects it pass by pass.

Shape letters: N completion tokens of the share in its order, n those of one pass, L lines of the plan, K auxiliary
views, H hidden width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from learner.batch import Share
from learner.plan import ScoringPlan
from unisd_rl.types import ViewKind


@dataclass(frozen=True, slots=True)
class Scores:
    """Per token of a share; None for what no term needs. Tokens without a negative view have zeros there."""

    primary_N: Tensor | None
    """Log-prob of the realised token under the primary view."""
    primary_NH: Tensor | None
    """Final hidden states of the primary view."""
    auxiliary_KN: Tensor | None
    """Log-probs under the auxiliary views."""
    negative_N: Tensor | None
    """Log-probs under the negative view."""
    negative_NH: Tensor | None
    """Final hidden states of the negative view."""
    has_negative_S: Tensor | None
    """bool: which completions have a negative view."""
    sample_n: Tensor
    """Log-probs under the primary view, whether or not a term needs them: if not, of a few tokens a pass."""


class Tally:
    """Scores in the making."""

    def __init__(self, plan: ScoringPlan, share: Share) -> None:
        self._plan, self._share = plan, share
        self._logprob_LN = torch.zeros(len(plan.lines), share.tokens, device=share.device)
        self._states: dict[int, Tensor] = {}
        self._sample = [torch.empty(0, device=share.device)]

    def keep_logprobs(self, places_n: Tensor, logprob_n: Tensor) -> None:
        """Log-probs go where they belong: `places_n` as in `Inputs`."""
        self._logprob_LN.view(-1)[places_n] = logprob_n

    def keep_states(self, line: int, places_n: Tensor, hidden_nH: Tensor) -> None:
        """Hidden states of one line; without tokens they still show how wide they are."""
        if line not in self._states:
            self._states[line] = hidden_nH.new_zeros(self._share.tokens, hidden_nH.shape[-1])
        self._states[line][places_n - line * self._share.tokens] = hidden_nH

    def keep_sample(self, logprob_n: Tensor) -> None:
        """Log-probs of some tokens of the primary view."""
        self._sample.append(logprob_n)

    def scores(self) -> Scores:
        """What was collected, after the last pass."""
        auxiliary, negative = (self._plan.lines_of(kind) for kind in (ViewKind.AUXILIARY, ViewKind.NEGATIVE))
        primary_N = self._logprobs_of(ViewKind.PRIMARY)
        return Scores(
            primary_N=primary_N,
            primary_NH=self._states_of(ViewKind.PRIMARY),
            auxiliary_KN=self._logprob_LN[list(auxiliary)] if auxiliary else None,
            negative_N=self._logprobs_of(ViewKind.NEGATIVE),
            negative_NH=self._states_of(ViewKind.NEGATIVE),
            has_negative_S=self._share.has_view(self._plan.lines[negative[0]]) if negative else None,
            sample_n=torch.cat(self._sample) if primary_N is None else primary_N,
        )

    def _logprobs_of(self, kind: ViewKind) -> Tensor | None:
        lines = [line for line in self._plan.lines_of(kind) if self._plan.lines[line].temperature is not None]
        return self._logprob_LN[lines[0]] if lines else None

    def _states_of(self, kind: ViewKind) -> Tensor | None:
        lines = [line for line in self._plan.lines_of(kind) if self._plan.lines[line].states]
        return self._states[lines[0]] if lines else None

"""What scoring finds about each token, and what follows for the gradient: vectors of one number per token.

The loss of a token is `main min(D, kappa) + contrastive hinge - likelihood s`. Once its divergences and its log-prob
`s` are known, the derivatives of the loss in them are known too, and the gradient in the logits is their chain rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from unisd_rl.config.objective import DivergenceContrast, LogprobContrast, ObjectiveSettings
from unisd_rl.objective.clipping import clipped, keeps_gradient
from unisd_rl.objective.contrastive import hinge, hinge_slope
from unisd_rl.objective.step import TokenTerms


@dataclass(frozen=True)
class Derivatives:
    """Of the loss, per token, float32; None where no term needs it."""

    divergence_C: Tensor | None
    """In the main term's divergence: 0 for clipped tokens."""
    gap_C: Tensor | None
    """In `D(S, P) - D(S, N)` of the contrast of divergences: 0 where the hinge is closed."""
    logprob_C: Tensor | None
    """In the student's log-prob of the realised token."""


@dataclass(frozen=True)
class TokenScores:
    """One number per token, float32 without gradient."""

    divergence_C: Tensor
    """D of the main term before clipping; zeros where it is off."""
    logprob_C: Tensor
    """Log-prob of the realised token under the student."""
    hinge_C: Tensor
    """The contrastive term's hinge; zeros where it is off. Means nothing for tokens without a negative view."""
    active_C: Tensor
    """Which tokens have a non-zero contrastive gradient (bool)."""

    @classmethod
    def of(
        cls,
        divergence_C: Tensor | None,
        logprob_C: Tensor,
        gap_C: Tensor | None,
        terms: TokenTerms,
        settings: ObjectiveSettings,
    ) -> "TokenScores":
        """From the main divergence (None: off), the log-prob and `D(S, P) - D(S, N)` (None: no such contrast)."""
        contrast, zeros_C = settings.contrastive, torch.zeros_like(logprob_C)
        hinge_C, active_C = zeros_C, torch.zeros_like(logprob_C, dtype=torch.bool)
        if isinstance(contrast, DivergenceContrast):
            assert gap_C is not None
            hinge_C = (gap_C + contrast.margin).clamp(min=0.0)
            active_C = (hinge_C > 0.0) & (terms.contrastive_N != 0.0)
        elif isinstance(contrast, LogprobContrast):
            arguments = (logprob_C, terms.primary_N, terms.negative_N, contrast.margin)
            hinge_C = hinge(*arguments)
            active_C = (terms.contrastive_N * hinge_slope(*arguments)) != 0.0
        return cls(zeros_C if divergence_C is None else divergence_C, logprob_C, hinge_C, active_C)

    @classmethod
    def joined(cls, parts: Sequence["TokenScores"]) -> "TokenScores":
        """The scores of all parts' tokens, in order; at least one part."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    @classmethod
    def none(cls, device: torch.device) -> "TokenScores":
        """Of no token."""
        nothing = torch.zeros(0, device=device)
        return cls(nothing, nothing, nothing, nothing.bool())

    def loss(self, terms: TokenTerms, settings: ObjectiveSettings) -> Tensor:
        """The sum over the tokens of all terms, 0-d float32."""
        loss = (terms.main_N * clipped(self.divergence_C, terms.kappa)).sum()
        if settings.contrastive is not None:
            loss = loss + (terms.contrastive_N * self.hinge_C).sum()
        if settings.likelihood is not None:
            loss = loss - (terms.likelihood_N * self.logprob_C).sum()
        return loss

    def derivatives(self, terms: TokenTerms, settings: ObjectiveSettings) -> Derivatives:
        """Of `loss`, in what it was made from."""
        divergence_C = gap_C = logprob_C = None
        if settings.alpha is not None:
            kept_C = keeps_gradient(self.divergence_C, terms.kappa) if terms.kept_N is None else terms.kept_N
            divergence_C = terms.main_N * kept_C
        if isinstance(settings.contrastive, DivergenceContrast):
            gap_C = terms.contrastive_N * self.active_C
        elif isinstance(settings.contrastive, LogprobContrast):
            arguments = (self.logprob_C, terms.primary_N, terms.negative_N, settings.contrastive.margin)
            logprob_C = terms.contrastive_N * hinge_slope(*arguments)
        if settings.likelihood is not None:
            logprob_C = -terms.likelihood_N if logprob_C is None else logprob_C - terms.likelihood_N
        return Derivatives(divergence_C, gap_C, logprob_C)

"""What the objective minimises: one frozen dataclass per mechanism; an absent one (None) is off.

These mirror the `objective` sections of the configuration, so that this package needs nothing but torch.
"""

import math
from dataclasses import dataclass
from typing import Literal

Statistic = Literal["variance", "range"]


@dataclass(frozen=True)
class TokenAgreement:
    """Weights `w = max(floor, 1 / (1 + gamma min(d / scale, cap)))` from the views' disagreement `d` per token."""

    gamma: float
    """How strongly disagreement lowers a weight."""
    statistic: Statistic
    """Disagreement over the views: population variance, or max - min, of log-probs (nats)."""
    scale_quantile: float | None
    """`scale` is this quantile of the whole step's disagreements (at least 1e-6) ..."""
    scale: float | None
    """... or this number."""
    cap: float
    """Largest scaled disagreement."""
    floor: float
    """Smallest weight, in (0, 1]."""


@dataclass(frozen=True)
class SequenceAgreement:
    """Weights `w = exp(-gamma A)` from the disagreement `A` of the views' mean log-probs of a whole completion."""

    gamma: float
    """How strongly disagreement lowers a weight."""
    statistic: Statistic
    """Disagreement over the views: population variance, or max - min."""


@dataclass(frozen=True)
class LogprobContrast:
    """Hinge `max(0, margin + |s - p| - |s - n|)` on the realised token's log-probs."""

    weight: float
    """lambda_c."""
    margin: float
    """Nats."""


@dataclass(frozen=True)
class DivergenceContrast:
    """Hinge `max(0, margin + D(S, P) - D(S, N))` on whole distributions; N is scored like P."""

    weight: float
    """lambda_c."""
    margin: float
    """Nats."""
    alpha: float
    """Which divergence D is, as for the main term."""


@dataclass(frozen=True)
class ObjectiveSettings:
    """Every number of the objective. Raises ValueError where the numbers have no meaning."""

    temperature: float
    """Softmax temperature of every distribution."""
    alpha: float | None
    """Main term: 0 forward KL, 1 reverse KL, in between generalised Jensen-Shannon; None leaves the main term out."""
    clip_threshold: float | None
    """kappa in nats ..."""
    clip_quantile: float | None
    """... or as a quantile of the whole step's divergences; both None: no clipping."""
    agreement: TokenAgreement | SequenceAgreement | None
    """Weights of the main term from the agreement of the auxiliary views."""
    contrastive: LogprobContrast | DivergenceContrast | None
    """The contrastive term."""
    matching_weight: float | None
    """lambda_f of feature matching."""
    chunk_tokens: int
    """Tokens whose vocabulary-wide logits exist at one time; does not change the result."""
    likelihood_weight: float | None = None
    """lambda_l of the cross-entropy on the completion; None leaves it out."""
    auxiliary_temperature: float | None = None
    """Softmax temperature of the auxiliary views; None: `temperature`."""
    released_micro_batch: int | None = None
    """The released code's reductions, micro-batch by micro-batch of so many sequences; None: ours."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature = {self.temperature} must be above 0")
        if self.chunk_tokens < 1:
            raise ValueError(f"chunk_tokens = {self.chunk_tokens} must be at least 1")
        if self.alpha is not None and not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"alpha = {self.alpha} must lie in [0, 1]")
        if self.clip_threshold is not None and self.clip_quantile is not None:
            raise ValueError("clip_threshold and clip_quantile exclude each other")
        if isinstance(self.agreement, TokenAgreement) and (self.agreement.scale is None) == (
            self.agreement.scale_quantile is None
        ):
            raise ValueError("token agreement needs exactly one of scale and scale_quantile")

    @property
    def needs_divergence_pass(self) -> bool:
        """Whether kappa needs every token's divergence before the first gradient (a no-gradient student pass)."""
        return self.alpha is not None and self.clip_quantile is not None


def divergence_bound(alpha: float) -> float:
    """Largest possible divergence in nats: the binary entropy of alpha; infinite for the two KLs (alpha 0 and 1)."""
    if alpha in (0.0, 1.0):
        return math.inf
    return -alpha * math.log(alpha) - (1.0 - alpha) * math.log1p(-alpha)


def inert_settings(settings: ObjectiveSettings) -> tuple[str, ...]:
    """One sentence for every setting that is on but cannot change the gradient; empty when all of them act."""
    found = (*_inert_clipping(settings), *_inert_agreement(settings))
    if settings.contrastive is not None and settings.contrastive.weight == 0.0:
        found += ("contrastive weight 0 leaves the contrastive term without effect",)
    if settings.matching_weight == 0.0:
        found += ("matching weight 0 leaves feature matching without effect",)
    return found


def _inert_clipping(settings: ObjectiveSettings) -> tuple[str, ...]:
    if settings.clip_threshold is None and settings.clip_quantile is None:
        return ()
    if settings.alpha is None:
        return ("clipping acts on the divergence, and there is no divergence term",)
    bound = divergence_bound(settings.alpha)
    if settings.clip_threshold is not None and settings.clip_threshold >= bound:
        return (
            f"clip threshold {settings.clip_threshold:g} can never bind: "
            f"the divergence with alpha {settings.alpha:g} is at most {bound:.4f}",
        )
    return ()


def _inert_agreement(settings: ObjectiveSettings) -> tuple[str, ...]:
    agreement = settings.agreement
    if agreement is None:
        return ()
    if settings.alpha is None:
        return ("agreement weighs the divergence, and there is no divergence term",)
    if agreement.gamma == 0.0:
        return ("agreement gamma 0 gives every weight 1",)
    if isinstance(agreement, TokenAgreement) and (agreement.floor >= 1.0 or agreement.cap == 0.0):
        return ("agreement with floor 1 or cap 0 gives every weight 1",)
    return ()

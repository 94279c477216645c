"""What the objective minimises: one frozen dataclass per mechanism; an absent one (None) is off.

These mirror the `objective` sections of the configuration, so that this package needs nothing but torch. Numbers
without meaning are refused here, all at once; numbers that mean nothing *happens* are named by `inert`.
"""

import math
from collections.abc import Iterator
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
    """Every number of the objective. Raises ValueError where the numbers have no meaning, naming all that have none."""

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
        faults = (*_main_faults(self), *_agreement_faults(self.agreement), *_term_faults(self))
        if faults:
            raise ValueError("; ".join(faults))

    @property
    def needs_divergence_pass(self) -> bool:
        """Whether kappa needs every token's divergence before the first gradient (a no-gradient student pass)."""
        return self.alpha is not None and self.clip_quantile is not None

    @property
    def needs_auxiliary_views(self) -> bool:
        """Whether agreement weighs anything: without a main term it has nothing to weigh."""
        return self.alpha is not None and self.agreement is not None


def divergence_bound(alpha: float) -> float:
    """Largest possible divergence in nats: the binary entropy of alpha; infinite for the two KLs (alpha 0 and 1)."""
    if alpha in (0.0, 1.0):
        return math.inf
    return -alpha * math.log(alpha) - (1.0 - alpha) * math.log1p(-alpha)


def _main_faults(settings: ObjectiveSettings) -> Iterator[str]:
    yield from _outside("temperature", settings.temperature, above=0.0)
    yield from _outside("auxiliary_temperature", settings.auxiliary_temperature, above=0.0)
    yield from _outside("alpha", settings.alpha, least=0.0, most=1.0)
    yield from _outside("clip_threshold", settings.clip_threshold, above=0.0)
    yield from _outside("clip_quantile", settings.clip_quantile, least=0.0, most=1.0)
    yield from _outside("chunk_tokens", settings.chunk_tokens, least=1.0)
    yield from _outside("released_micro_batch", settings.released_micro_batch, least=1.0)
    if settings.clip_threshold is not None and settings.clip_quantile is not None:
        yield "clip_threshold and clip_quantile exclude each other: leave one out"
    if settings.released_micro_batch is not None and settings.clip_quantile is not None:
        yield "clip_quantile is of the whole step, the released reductions are of micro-batches: use clip_threshold"


def _agreement_faults(agreement: TokenAgreement | SequenceAgreement | None) -> Iterator[str]:
    if agreement is None:
        return
    yield from _outside("agreement gamma", agreement.gamma, least=0.0)
    if isinstance(agreement, TokenAgreement):
        yield from _outside("agreement scale_quantile", agreement.scale_quantile, least=0.0, most=1.0)
        yield from _outside("agreement scale", agreement.scale, above=0.0)
        yield from _outside("agreement cap", agreement.cap, least=0.0)
        yield from _outside("agreement floor", agreement.floor, above=0.0, most=1.0)
        if (agreement.scale is None) == (agreement.scale_quantile is None):
            yield "token agreement needs exactly one of scale and scale_quantile"


def _term_faults(settings: ObjectiveSettings) -> Iterator[str]:
    contrastive = settings.contrastive
    if contrastive is not None:
        yield from _outside("contrastive weight", contrastive.weight, least=0.0)
        yield from _outside("contrastive margin", contrastive.margin, least=0.0)
    if isinstance(contrastive, DivergenceContrast):
        yield from _outside("contrastive alpha", contrastive.alpha, least=0.0, most=1.0)
    yield from _outside("matching_weight", settings.matching_weight, least=0.0)
    yield from _outside("likelihood_weight", settings.likelihood_weight, least=0.0)


def _outside(
    name: str, value: float | None, above: float = -math.inf, least: float = -math.inf, most: float = math.inf
) -> Iterator[str]:
    """A sentence if the value is there and not a finite number within the limits."""
    if value is not None and not (math.isfinite(value) and value > above and least <= value <= most):
        wanted = [f"above {above:g}"] * (above > -math.inf) + [f"at least {least:g}"] * (least > -math.inf)
        wanted += [f"at most {most:g}"] * (most < math.inf)
        yield f"{name} = {value} must be a number {' and '.join(wanted)}"

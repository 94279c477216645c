"""What an optimiser step minimises: the mechanisms that are on are the sections that are there.

Each section says what it needs of the teacher's views (`needs`) and where it is on but cannot act (`ineffective`), so
that both are known before torch is imported. The mathematics is in `unisd_rl.objective`, which reads these sections.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import override

from unisd_rl.config.base import Count, Fraction, NonNegative, OpenFraction, Positive, Section, Temperature
from unisd_rl.types import ViewKind

# Weights that all lie between this and 1 change a gradient by less than its noise.
_NEARLY_ONE = 0.99


@dataclass(frozen=True)
class Needs:
    """What the teacher must yield for each completion token, by the view it reads."""

    states: frozenset[ViewKind] = frozenset()
    """Views whose final hidden states are kept: from them the whole next-token distribution is formed."""
    logprobs: frozenset[ViewKind] = frozenset()
    """Views of which the target token's log-prob is enough."""

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(self.states | other.states, self.logprobs | other.logprobs)

    @property
    def views(self) -> frozenset[ViewKind]:
        """All kinds of views that are read."""
        return self.states | self.logprobs


class Mechanism(Section):
    """A section of the objective; a mechanism that is off is a section that is absent."""

    needs: ClassVar[Needs] = Needs()
    """What this mechanism reads of the teacher; nothing unless it says so."""

    def ineffective(self, objective: "ObjectiveConfig") -> Iterator[str]:
        """One sentence for each setting of this section that is on but cannot change the gradient."""
        yield from ()


class TermConfig(Mechanism):
    """A mechanism that is a term of the loss."""


class Divergence(TermConfig):
    """The main term: a divergence between student and teacher at every token.

    A section of `objective` names one by its `type`; without one it is `jensen_shannon`.
    """

    has_triton_kernel: ClassVar[bool] = False
    """Whether a GPU computes it in the fused kernels; else in plain torch, which is slower."""

    needs = Needs(states=frozenset({ViewKind.PRIMARY}))

    @property
    @abstractmethod
    def bound(self) -> float:
        """Largest possible value in nats."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What a sentence calls it."""


class JensenShannon(Divergence):
    """The generalised Jensen-Shannon divergence, with the two KL divergences at its ends."""

    has_triton_kernel = True

    type: Literal["jensen_shannon"] = "jensen_shannon"
    alpha: Fraction = 0.5
    """0 is the forward KL, 1 the reverse KL, in between the generalised Jensen-Shannon divergence."""

    @property
    @override
    def bound(self) -> float:
        """The binary entropy of alpha; infinite for the two KLs."""
        if self.alpha in (0.0, 1.0):
            return math.inf
        return -self.alpha * math.log(self.alpha) - (1.0 - self.alpha) * math.log1p(-self.alpha)

    @property
    @override
    def title(self) -> str:
        return f"divergence with alpha {self.alpha:g}"


class TopK(Divergence):
    """The generalised Jensen-Shannon divergence over the teacher's likeliest tokens alone."""

    type: Literal["top_k"] = "top_k"
    k: Count = 100
    """Tokens at each position that count: the teacher's likeliest."""
    alpha: Fraction = 0.5
    """As of `jensen_shannon`."""
    tail: bool = True
    """Whether all other tokens count as one more, with the rest of the probability. Else the k are renormalised, and no
    other token has a gradient."""

    @property
    @override
    def bound(self) -> float:
        return JensenShannon(alpha=self.alpha).bound

    @property
    @override
    def title(self) -> str:
        return f"divergence with alpha {self.alpha:g} over {self.k} tokens"


class TotalVariation(Divergence):
    """Half the sum of the absolute differences of all probabilities."""

    type: Literal["total_variation"] = "total_variation"

    @property
    @override
    def bound(self) -> float:
        return 1.0

    @property
    @override
    def title(self) -> str:
        return "total variation"


def _usual_divergence(given: object) -> object:
    return {"type": "jensen_shannon", **given} if isinstance(given, Mapping) else given


DivergenceConfig = Annotated[
    JensenShannon | TopK | TotalVariation, Field(discriminator="type"), BeforeValidator(_usual_divergence)
]


class ClippingConfig(Mechanism):
    """Divergence clipping: at a constant or at a quantile."""

    threshold: Positive | None = None
    """Clip each token's divergence at this many nats."""
    quantile: OpenFraction | None = None
    """Clip at this quantile of the whole step's divergences instead."""

    @model_validator(mode="after")
    def _one_of_two(self) -> "ClippingConfig":
        if (self.threshold is None) == (self.quantile is None):
            raise ValueError("give either `threshold` (nats) or `quantile`, not both and not neither")
        return self

    @override
    def ineffective(self, objective: "ObjectiveConfig") -> Iterator[str]:
        divergence = objective.divergence
        if divergence is None:
            yield "clipping acts on the divergence, and there is no divergence term"
        elif self.threshold is not None and self.threshold >= divergence.bound:
            yield (
                f"clip threshold {self.threshold:g} can never bind: "
                f"the {divergence.title} is at most {divergence.bound:.4f}"
            )


class Agreement(Mechanism):
    """Weights of the divergence from how well the auxiliary views agree."""

    gamma: NonNegative = 1.0
    """How strongly disagreement lowers a weight; 0 switches the mechanism off."""
    statistic: Literal["variance", "range"] = "variance"
    """Disagreement of the views' log-probs: population variance, or max - min."""

    needs = Needs(logprobs=frozenset({ViewKind.AUXILIARY}))

    @override
    def ineffective(self, objective: "ObjectiveConfig") -> Iterator[str]:
        if objective.divergence is None:
            yield "agreement weighs the divergence, and there is no divergence term"
        elif self.gamma == 0.0:
            yield "agreement gamma 0 gives every weight 1"
        else:
            yield from self._weak(objective)

    @abstractmethod
    def _weak(self, objective: "ObjectiveConfig") -> Iterator[str]:
        """What else makes every weight one, or nearly."""


class TokenAgreement(Agreement):
    """One weight per token: `w = max(floor, 1 / (1 + gamma min(d / scale, cap)))`, d the views' disagreement."""

    level: Literal["token"] = "token"
    scale_quantile: OpenFraction = 0.95
    """Disagreement is measured against this quantile of the whole step (at least 1e-6) ..."""
    scale: Positive | None = None
    """... or, where this is set, against this absolute number."""
    cap: Positive = 10.0
    """Largest scaled disagreement."""
    floor: OpenFraction = 0.01
    """Smallest weight."""

    @override
    def _weak(self, objective: "ObjectiveConfig") -> Iterator[str]:
        smallest = max(self.floor, 1.0 / (1.0 + self.gamma * self.cap))
        if smallest >= _NEARLY_ONE:
            yield (
                f"agreement with gamma {self.gamma:g}, cap {self.cap:g} and floor {self.floor:g} hardly "
                f"acts: every weight lies between {smallest:.3f} and 1"
            )


class SequenceAgreement(Agreement):
    """One weight per completion: `w = exp(-gamma A / scale)`, A the disagreement of the views' mean log-probs.

    A mean over many tokens hardly differs between views: unscaled, A is 1e-4 to 1e-2 nats, and gammas of the size of 1
    leave every weight at 1.
    """

    level: Literal["sequence"] = "sequence"
    scale_quantile: OpenFraction | None = None
    """Disagreement is measured against this quantile of the whole step (at least 1e-6). Absent: the scale is 1, as
    released."""

    @override
    def _weak(self, objective: "ObjectiveConfig") -> Iterator[str]:
        if objective.reference_reductions is not None:
            yield (
                "sequence agreement cancels under the reference reductions: "
                "a completion's weight stands in numerator and denominator of its own mean"
            )


AgreementConfig = Annotated[TokenAgreement | SequenceAgreement, Field(discriminator="level")]


class Contrast(TermConfig):
    """Pull to the right demonstration, push from the wrong one: a hinge on the difference of two distances."""

    weight: Positive = 0.1
    """lambda_c."""
    margin: NonNegative = 0.5
    """Margin of the hinge (nats)."""


class LogprobContrast(Contrast):
    """By the target token's log-probs: `max(0, margin + |s - p| - |s - n|)`."""

    signal: Literal["logprob"] = "logprob"

    needs = Needs(logprobs=frozenset({ViewKind.PRIMARY, ViewKind.NEGATIVE}))


class DivergenceContrast(Contrast):
    """By whole distributions: `max(0, margin + D(S, P) - D(S, N))`. The negative view then costs as much as the primary
    one."""

    signal: Literal["divergence"] = "divergence"
    alpha: Fraction = 0.5
    """Which divergence: 0 is the forward KL, 1 the reverse KL, in between generalised Jensen-Shannon."""

    @property
    def divergence(self) -> JensenShannon:
        """D."""
        return JensenShannon(alpha=self.alpha)

    needs = Needs(states=frozenset({ViewKind.PRIMARY, ViewKind.NEGATIVE}))

    @override
    def ineffective(self, objective: "ObjectiveConfig") -> Iterator[str]:
        if self.margin >= self.divergence.bound:
            yield (
                f"contrastive margin {self.margin:g} never closes the hinge, so its size changes nothing: the "
                f"{self.divergence.title} is at most {self.divergence.bound:.4f}"
            )


ContrastiveConfig = Annotated[LogprobContrast | DivergenceContrast, Field(discriminator="signal")]


class LikelihoodConfig(TermConfig):
    """Cross-entropy on the completion itself: what supervised fine-tuning minimises. Reads no teacher."""

    weight: Positive = 1.0
    """lambda_l."""


class MatchingConfig(TermConfig):
    """Feature matching of final hidden states."""

    weight: Positive = 0.1
    """lambda_f. Without a `divergence` section this is the representation-only variant."""

    needs = Needs(states=frozenset({ViewKind.PRIMARY}))


class EmaConfig(Mechanism):
    """The teacher follows the student as an exponential moving average."""

    beta: Fraction = 0.9
    """Share of the old teacher that an update keeps; 1 never moves."""
    every: Count = 1
    """Optimiser steps between updates."""

    @override
    def ineffective(self, objective: "ObjectiveConfig") -> Iterator[str]:
        if not objective.needs.views:
            yield "objective.ema has no effect: no loss term uses a teacher"
        elif self.beta == 1.0:
            yield "objective.ema has no effect: beta 1 keeps all of the teacher, which stays the initial model"


class ReferenceReductions(Mechanism):
    """The reductions of the UniSD authors' released code, for comparison with ours.

    Scale quantiles are of one micro-batch, sequence weights cancel within their sequence, the variance over views is
    unbiased at token level, and rows without tokens count in the denominator.
    """

    micro_batch_size: Count = 4
    """Consecutive prompts of a rank that form one micro-batch."""


class ObjectiveConfig(Section):
    """UniSD*: the mechanisms that are on are the sections that are there."""

    temperature: Temperature | None = None
    """Softmax temperature of every distribution. Absent: the sampling temperature."""
    auxiliary_temperature: Temperature | None = None
    """Softmax temperature of the auxiliary views alone. Absent: the same as of every other distribution."""
    divergence: DivergenceConfig | None = None
    """The main term. Absent: none."""
    clipping: ClippingConfig | None = None
    """Clipping of rare outlier tokens. Absent: none."""
    agreement: AgreementConfig | None = None
    """Multi-teacher agreement weights. Absent: all tokens weigh the same."""
    contrastive: ContrastiveConfig | None = None
    """Right against wrong demonstrations. Absent: none."""
    matching: MatchingConfig | None = None
    """Feature matching. Absent: none."""
    likelihood: LikelihoodConfig | None = None
    """Cross-entropy on the completions. Absent: none."""
    ema: EmaConfig | None = None
    """The moving teacher. Absent: the teacher stays the initial model."""
    reference_reductions: ReferenceReductions | None = None
    """The reductions of the authors' code. Absent: ours, the same on any layout."""

    @model_validator(mode="after")
    def _something_to_minimise(self) -> "ObjectiveConfig":
        if not self.terms:
            raise ValueError("nothing to minimise: give `divergence`, `contrastive`, `matching` or `likelihood`")
        return self

    @model_validator(mode="after")
    def _reference_reductions_clip_at_a_constant(self) -> "ObjectiveConfig":
        if self.reference_reductions is not None and self.clipping is not None and self.clipping.quantile is not None:
            raise ValueError(
                f"clipping.quantile = {self.clipping.quantile} is of the whole step, and `reference_reductions` "
                "reduces each micro-batch by itself: give clipping.threshold instead, or leave the latter out"
            )
        return self

    @property
    def mechanisms(self) -> tuple[Mechanism, ...]:
        """The sections that are there."""
        sections = (getattr(self, name) for name in ObjectiveConfig.model_fields)
        return tuple(section for section in sections if isinstance(section, Mechanism))

    @property
    def terms(self) -> tuple[TermConfig, ...]:
        """Those of them that are terms of the loss."""
        return tuple(section for section in self.mechanisms if isinstance(section, TermConfig))

    @property
    def needs(self) -> Needs:
        """What all terms together read of the teacher; where that is nothing, there is no teacher."""
        # Agreement weighs the divergence: without that its views are not read.
        weights = () if self.divergence is None or self.agreement is None else (self.agreement,)
        return reduce(or_, (reader.needs for reader in (*self.terms, *weights)), Needs())

    @property
    def needs_negative_view(self) -> bool:
        """Whether a term reads the view with a wrong demonstration."""
        return ViewKind.NEGATIVE in self.needs.views

    @property
    def needs_divergence_pass(self) -> bool:
        """Whether the clip threshold needs every token's divergence before the first gradient."""
        return self.divergence is not None and self.clipping is not None and self.clipping.quantile is not None


class ObjectiveSettings(ObjectiveConfig):
    """The objective with the numbers that other sections give it: what `unisd_rl.objective` and the learner read."""

    temperature: Temperature
    """Softmax temperature of every distribution."""
    auxiliary_temperature: Temperature
    """Softmax temperature of the auxiliary views."""
    chunk_tokens: Count
    """Tokens whose vocabulary-wide logits exist at one time; does not change the result."""

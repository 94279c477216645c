"""What is minimised: the mechanisms that are on are the sections that are there."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from unisd_rl.config.base import Count, Fraction, NonNegative, OpenFraction, Positive, Section


class DivergenceConfig(Section):
    """The main term: a divergence between student and teacher at every token."""

    alpha: Fraction = 0.5
    """0 is the forward KL, 1 the reverse KL, in between the generalised Jensen-Shannon divergence."""


class ClippingConfig(Section):
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


class TokenAgreement(Section):
    """One agreement weight per token."""

    level: Literal["token"] = "token"
    gamma: NonNegative = 1.0
    """How strongly disagreement lowers a weight; 0 switches the mechanism off."""
    statistic: Literal["variance", "range"] = "variance"
    """Disagreement of the views' log-probs: population variance, or max - min."""
    scale_quantile: OpenFraction = 0.95
    """Disagreement is measured against this quantile of the whole step ..."""
    scale: Positive | None = None
    """... or, where this is set, against this absolute number."""
    cap: Positive = 10.0
    """Largest scaled disagreement."""
    floor: OpenFraction = 0.01
    """Smallest weight."""


class SequenceAgreement(Section):
    """One agreement weight per completion."""

    level: Literal["sequence"]
    gamma: NonNegative = 1.0
    """Weight = exp(-gamma * disagreement of the views' mean log-probs)."""
    statistic: Literal["variance", "range"] = "variance"
    """Disagreement: population variance, or max - min."""


AgreementConfig = Annotated[TokenAgreement | SequenceAgreement, Field(discriminator="level")]


class LogprobContrast(Section):
    """Pull to the right demonstration, push from the wrong one, by the realised token's log-probs."""

    signal: Literal["logprob"] = "logprob"
    weight: Positive = 0.1
    """lambda_c."""
    margin: NonNegative = 0.5
    """Margin of the hinge (nats)."""


class DivergenceContrast(Section):
    """The same by whole distributions; the negative view is then scored like the primary one, which costs as much."""

    signal: Literal["divergence"]
    weight: Positive = 0.1
    """lambda_c."""
    margin: NonNegative = 0.5
    """Margin of the hinge (nats)."""
    alpha: Fraction = 0.5
    """Which divergence: 0 is the forward KL, 1 the reverse KL, in between generalised Jensen-Shannon."""


ContrastiveConfig = Annotated[LogprobContrast | DivergenceContrast, Field(discriminator="signal")]


class LikelihoodConfig(Section):
    """Cross-entropy on the completion itself: what supervised fine-tuning minimises. Reads no teacher."""

    weight: Positive = 1.0
    """lambda_l."""


class MatchingConfig(Section):
    """Feature matching of final hidden states."""

    weight: Positive = 0.1
    """lambda_f. Without a `divergence` section this is the representation-only variant."""


class EmaConfig(Section):
    """The teacher follows the student as an exponential moving average."""

    beta: Fraction = 0.9
    """Share of the old teacher that an update keeps; 1 never moves."""
    every: Count = 1
    """Optimiser steps between updates."""


class ReferenceReductions(Section):
    """The reductions of the UniSD authors' released code, for comparison with ours.

    Scale quantiles are of one micro-batch, sequence weights cancel within their sequence, the variance over views is
    unbiased at token level, and rows without tokens count in the denominator.
    """

    micro_batch_size: Count = 4
    """Consecutive prompts of a rank that form one micro-batch."""


class ObjectiveConfig(Section):
    """UniSD*: the mechanisms that are on are the sections that are there."""

    temperature: Positive | None = None
    """Softmax temperature of every distribution. Absent: the sampling temperature."""
    auxiliary_temperature: Positive | None = None
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
        if not (self.divergence or self.contrastive or self.matching or self.likelihood):
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

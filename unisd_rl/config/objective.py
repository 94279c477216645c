"""What is minimised: the mechanisms that are on are the sections that are there."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from unisd_rl.config.section import Count, Fraction, NonNegative, OpenFraction, Positive, Section


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


class ContrastiveConfig(Section):
    """Pull to the right demonstration, push from the wrong one."""

    weight: Positive = 0.1
    """lambda_c."""
    margin: NonNegative = 0.5
    """Margin of the hinge (nats)."""


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


class ObjectiveConfig(Section):
    """UniSD*: the mechanisms that are on are the sections that are there."""

    temperature: Positive | None = None
    """Softmax temperature of every distribution. Absent: the sampling temperature."""
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
    ema: EmaConfig | None = None
    """The moving teacher. Absent: the teacher stays the initial model."""

    @model_validator(mode="after")
    def _something_to_minimise(self) -> "ObjectiveConfig":
        if self.divergence is None and self.contrastive is None and self.matching is None:
            raise ValueError("nothing to minimise: give `divergence`, `contrastive` or `matching`")
        return self

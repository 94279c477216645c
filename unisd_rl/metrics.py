"""What the learner says about an optimiser step and a publication: plain numbers, the same on every rank."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimiser step. Log-probs and divergences in nats; nan where a number is not defined."""

    step: int
    """The step, counted from 0: it turns version `step` into version `step + 1`."""
    loss: float
    """The whole loss L of the step, all terms."""
    divergence: float
    """Mean divergence over tokens, before clipping."""
    divergence_p50: float
    """Its median ..."""
    divergence_p95: float
    """... and 95th percentile."""
    clipped_share: float
    """Share of tokens whose divergence lost its gradient to clipping."""
    kappa: float
    """Clip threshold; nan where nothing is clipped."""
    weight_p05: float
    """5th percentile of the agreement weights; 1 without agreement, as for the next one."""
    weight_median: float
    """Median agreement weight."""
    weight_below_half: float
    """Share of agreement weights under 0.5."""
    effective_sample_size: float
    """`(sum w)^2 / sum w^2 / count` of the agreement weights: 1 when all are equal."""
    contrastive_loss: float
    """The contrastive term's part of the loss, its weight included."""
    contrastive_share: float
    """Share of the tokens with a negative view whose contrastive gradient is not zero."""
    feature_loss: float
    """Feature matching's part of the loss, its weight included."""
    likelihood_loss: float
    """The likelihood term's part of the loss, its weight included."""
    teacher_moved: float
    """Norm of the teacher's update over the teacher's norm; 0 in a step without one."""
    teacher_gap: float
    """Norm of student minus teacher over the teacher's norm, after the step and any update."""
    grad_norm: float
    """Norm of the gradient before it is clipped."""
    learning_rate: float
    """What the step was taken with."""
    tokens: int
    """Completion tokens trained on, all ranks."""
    sequences: int
    """Completions with at least one token."""
    contrasted_sequences: int
    """Those of them that have a negative view."""
    staleness_max: float
    """Largest step minus version of a token; nan if no policy sampled any."""
    staleness_mean: float
    """The mean of the same."""
    behaviour_gap_max: float
    """Largest |engine log-prob - learner log-prob| over tokens of the learner's own version; nan if there are none."""
    primary_s: float
    """Seconds of the passes over the teacher's primary view (slowest rank, as for all times) ..."""
    auxiliary_s: float
    """... over the auxiliary views ..."""
    negative_s: float
    """... and over the negative view. They share passes, whose time is divided by the tokens read of each view."""
    divergence_s: float
    """Seconds of the student's passes without gradient, for a quantile clip."""
    gradient_s: float
    """Seconds of the gradient passes."""
    update_s: float
    """Seconds of the optimiser's step and the teacher's update."""
    primary_tokens: int
    """Tokens read in the primary view, prompts included, all ranks; 0 for what no term needs."""
    auxiliary_tokens: int
    """The same of the auxiliary views ..."""
    negative_tokens: int
    """... of the negative view ..."""
    divergence_tokens: int
    """... of the student without gradient ..."""
    gradient_tokens: int
    """... and with it."""
    forwards: int
    """Forward passes of a rank, with gradient and without."""
    padding_share: float
    """Share of the positions computed in them, on all ranks, that were padding."""


@dataclass(frozen=True, slots=True)
class PublishReport:
    """One publication of the student's weights, which are sent on in the background."""

    version: int
    gather_s: float
    """Seconds to take the weights; training waits for this."""
    wait_s: float
    """Seconds spent waiting for the publication before to be gone."""
    nbytes: int

"""The numbers of one optimiser step, the same on every rank: what metrics.jsonl holds a line of.

```
 objective   LossMetrics, WeightMetrics, BatchCounts   \
 learner     PolicyMetrics, MismatchMetrics,            > StepMetrics --flat()--> metrics.jsonl
             SignalMetrics, OptimizerMetrics,         /
             TeacherMetrics, Timing                  /
 driver      AnswerMetrics, where training answers are graded
```

A number is declared here and made in one place. Its field's name is its name in metrics.jsonl, so no two parts share
one. Log-probs and divergences are in nats, times in seconds; nan stands where a number is not defined.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

ReadPart = Literal["primary", "auxiliary", "negative", "divergence", "gradient"]
"""What a forward pass reads: one of the teacher's views, or the student's prompts, without gradient (for a quantile
clip) or with it."""
READ_PARTS: tuple[ReadPart, ...] = get_args(ReadPart)
ENOUGH_TOKENS = 32
"""So many tokens tell how far engine and learner are apart; of fewer, one that rounds badly decides the mean."""


@dataclass(frozen=True, slots=True)
class LossMetrics:
    """The gradient passes of the step, all micro-batches and ranks together."""

    loss: float
    """The loss L of the step: the sum of the next four."""
    divergence_loss: float
    """The divergence term, clipped and weighted."""
    contrastive_loss: float
    """The contrastive term, its weight included."""
    matching_loss: float
    """Feature matching, its weight included."""
    likelihood_loss: float
    """The likelihood term, its weight included."""
    divergence: float
    """Mean divergence over tokens, before clipping; nan without a divergence term, as for the next three."""
    divergence_p50: float
    divergence_p95: float
    clipped_share: float
    """Share of tokens whose divergence lost its gradient to clipping."""
    contrastive_active_share: float
    """Share of the tokens with a negative view whose contrastive gradient is not zero."""
    other_terms: Mapping[str, float]
    """What further terms report, by its name in metrics.jsonl: terms of one's own need no field here."""

    def flat(self) -> dict[str, float]:
        """Every number under its name in metrics.jsonl."""
        numbers = asdict(self)
        return numbers | numbers.pop("other_terms")


@dataclass(frozen=True, slots=True)
class WeightMetrics:
    """The agreement weights (per token, under sequence agreement per sequence) and the clip threshold of the step."""

    weight_mean: float
    """Mean of the weights; nan without agreement."""
    weight_p05: float
    """5th percentile of the weights; 1 without agreement, as for the next three. Under token agreement with the scale
    at the 95th percentile it is `1 / (1 + gamma)`, whatever the views say."""
    weight_median: float
    weight_below_half: float
    """Share of weights under 0.5."""
    effective_sample_size: float
    """`(sum w)^2 / sum w^2 / count`: 1 when all weights are equal."""
    disagreement_scale: float
    """What disagreements are measured against: a quantile of the step's, or a number of the configuration. nan where
    there is none, and under the reference reductions, which have one for each micro-batch."""
    clip_threshold: float
    """nan where nothing is clipped."""


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """How much there is in the whole step, over all ranks."""

    tokens: int
    """Completion tokens trained on."""
    sequences: int
    """Completions with at least one token; the others count nowhere."""
    contrasted_sequences: int
    """Those of them that have a negative view."""


@dataclass(frozen=True, slots=True)
class PolicyMetrics:
    """Which policies sampled the tokens."""

    staleness_max: float
    """Largest step minus version of a token; nan if no policy sampled any."""
    staleness_mean: float
    truncated_share: float
    """Share of the completions that `rollout.max_completion_tokens` cut, trained on or not."""


@dataclass(frozen=True, slots=True)
class MismatchMetrics:
    """How far engine and learner are apart on the same tokens under the same version; nan where there are none.

    Both compute the same policy and round differently: in bfloat16 a single token may be off by half a nat where all is
    well. So what is judged is the root mean square, and one token's size is only told.
    """

    logprob_mismatch_tokens: int
    """Tokens that were compared: those that the learner's own version sampled."""
    logprob_mismatch_rms: float
    """Root mean square of the difference of the log-probs."""
    logprob_mismatch_p99: float
    """99th percentile of its size."""
    logprob_mismatch_max: float
    """Largest size."""
    logprob_mismatch_kl: float
    """`KL(engine || learner)`, estimated by the mean of `exp(d) - 1 - d` with d the learner's less the engine's."""

    @classmethod
    def between(cls, engine_N: NDArray, learner_N: NDArray) -> "MismatchMetrics":
        """Of the log-probs of the same tokens."""
        difference_N = learner_N.astype(np.float64) - engine_N.astype(np.float64)
        if not difference_N.size:
            return cls(0, math.nan, math.nan, math.nan, math.nan)
        size_N = np.abs(difference_N)
        with np.errstate(over="ignore"):  # infinite is the right size of a gap of hundreds of nats
            divergence_N = np.expm1(difference_N) - difference_N
        return cls(
            logprob_mismatch_tokens=difference_N.size,
            logprob_mismatch_rms=float(np.sqrt(np.mean(size_N**2))),
            logprob_mismatch_p99=float(np.quantile(size_N, 0.99)),
            logprob_mismatch_max=float(size_N.max()),
            logprob_mismatch_kl=float(divergence_N.mean()),
        )

    def exceeds(self, tolerance: float) -> bool:
        """Whether the root mean square is over `tolerance` (nats), or a log-prob is no number.

        The mean is taken over at least 32 tokens: of fewer, each must be off by as much as would show among so many.
        """
        if not self.logprob_mismatch_tokens:
            return False
        tokens = self.logprob_mismatch_tokens
        # Not `>`: a nan is no agreement.
        return not self.logprob_mismatch_rms * math.sqrt(tokens / max(tokens, ENOUGH_TOKENS)) <= tolerance

    def describe(self) -> str:
        """In one clause."""
        return (
            f"{self.logprob_mismatch_rms:.4g} nats (root mean square of {self.logprob_mismatch_tokens} tokens; at most "
            f"{self.logprob_mismatch_max:.4g})"
        )


@dataclass(frozen=True, slots=True)
class SignalMetrics:
    """What a loss curve does not show: how sure policy and teacher are, and what the completions are like.

    Means over the step; nan where there is nothing to take one of.
    """

    policy_entropy: float
    """Nats, of the student's distributions at the objective's temperature, at tokens spread over the step."""
    teacher_entropy: float
    """The same of the teacher that reads the primary view."""
    completion_tokens_mean: float
    """Tokens of a completion."""
    repeated_share: float
    """Share of a completion's runs of four tokens that stand in it earlier."""
    copied_share: float
    """Share of a completion's runs of four tokens that stand in the primary view and not in the student's prompt."""


@dataclass(frozen=True, slots=True)
class OptimizerMetrics:
    """The optimiser's step."""

    grad_norm: float
    """Norm of the gradient before it is clipped."""
    learning_rate: float


@dataclass(frozen=True, slots=True)
class TeacherMetrics:
    """The teacher's moving average; norms are relative to the teacher's."""

    teacher_update_norm: float
    """Of what the update added; 0 in a step without one."""
    teacher_student_distance: float
    """Norm of student minus teacher after the update; nan in a step without one."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the step's time went. In metrics.jsonl the mappings are `primary_s`, `primary_tokens` and so on."""

    read_s: Mapping[ReadPart, float]
    """Of the slowest rank. Views share passes, whose time is divided by the tokens read of each."""
    read_tokens: Mapping[ReadPart, int]
    """Tokens read, prompts included, all ranks; 0 for what no term needs."""
    update_s: float
    """The optimiser's step and the teacher's update, of the slowest rank."""
    forward_passes: int
    """Of a rank, with gradient and without."""
    padding_share: float
    """Share of the positions computed in them, on all ranks, that were padding."""

    def flat(self) -> dict[str, float]:
        """Every number under its name in metrics.jsonl."""
        return {
            **{f"{part}_s": seconds for part, seconds in self.read_s.items()},
            **{f"{part}_tokens": tokens for part, tokens in self.read_tokens.items()},
            "update_s": self.update_s,
            "forward_passes": self.forward_passes,
            "padding_share": self.padding_share,
        }


@dataclass(frozen=True, slots=True)
class AnswerMetrics:
    """Grades of the answers that the step trained on, where each prompt has several; nan without any.

    They are of the versions that sampled them, which may be several: no evaluation, which is of one.
    """

    answers_per_prompt: int
    """G, `rollout.answers_per_prompt`."""
    train_accuracy: float
    """Share of right answers."""
    train_pass_at_g: float
    """pass@G: share of the prompts of which at least one answer is right."""

    @classmethod
    def of(cls, answers_per_prompt: int, groups: Sequence[Sequence[bool]]) -> "AnswerMetrics":
        """Of the grades of each prompt's answers; a group may lack some that were given up."""
        graded = [grades for grades in groups if grades]
        right, answers = sum(map(sum, graded)), sum(map(len, graded))
        if not answers:
            return cls(answers_per_prompt, math.nan, math.nan)
        return cls(answers_per_prompt, right / answers, sum(map(any, graded)) / len(graded))


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One optimiser step."""

    step: int
    """Counted from 0: it turns version `step` into version `step + 1`."""
    loss: LossMetrics
    weights: WeightMetrics
    counts: BatchCounts
    policy: PolicyMetrics
    mismatch: MismatchMetrics
    signals: SignalMetrics
    optimizer: OptimizerMetrics
    teacher: TeacherMetrics
    timing: Timing

    def flat(self) -> dict[str, float]:
        """Every number under its own name: the step's part of its line in metrics.jsonl."""
        parts = (self.weights, self.counts, self.policy, self.mismatch, self.signals, self.optimizer, self.teacher)
        numbers: dict[str, float] = {"step": self.step, **self.loss.flat()}
        for part in parts:
            numbers |= asdict(part)
        return numbers | self.timing.flat()

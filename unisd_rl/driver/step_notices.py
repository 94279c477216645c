"""What the numbers of a step show that no loss curve does: notices on the console and in `events.jsonl`.

They end nothing. Where engine and learner drift apart although each only rounds, the run goes on with a bias that a
person should know of; where agreement weighs all alike, it goes on without that mechanism.
"""

from unisd_rl.config import Config
from unisd_rl.metrics import ENOUGH_TOKENS, MismatchMetrics, StepMetrics, WeightMetrics
from unisd_rl.types import Notice, Report

MISMATCH_KL = 0.015
"""Nats per token, prime-rl's bar for the divergence of engine and trainer."""
EQUAL_WEIGHTS = 0.999
"""Effective sample size above which agreement weights are as good as equal."""


class StepNotices:
    """Looks at every step of a run. A mismatch is reported when it begins (it ends at half the bar), equal weights
    once."""

    def __init__(self, config: Config, report: Report) -> None:
        objective = config.objective
        self._agreement = objective.agreement if objective.divergence is not None else None
        self._report = report
        self._mismatched = False

    def observe(self, metrics: StepMetrics) -> None:
        """Report what this step shows for the first time."""
        self._observe_mismatch(metrics.step + 1, metrics.mismatch)
        self._observe_weights(metrics.step + 1, metrics.weights, metrics.counts.sequences)

    def _observe_mismatch(self, step: int, mismatch: MismatchMetrics) -> None:
        if mismatch.logprob_mismatch_tokens < ENOUGH_TOKENS:
            return
        before = self._mismatched
        self._mismatched = mismatch.logprob_mismatch_kl > (MISMATCH_KL / 2 if before else MISMATCH_KL)
        if self._mismatched and not before:
            reason = (
                f"step {step}: engine and learner differ by {mismatch.describe()}, a divergence of "
                f"{mismatch.logprob_mismatch_kl:.3g} nats per token (bar: {MISMATCH_KL:g}); on-policy answers are not "
                "quite the student's"
            )
            self._report(Notice("learner", reason))

    def _observe_weights(self, step: int, weights: WeightMetrics, sequences: int) -> None:
        # One sequence has one weight, which is equal to itself.
        if self._agreement is not None and sequences > 1 and weights.effective_sample_size > EQUAL_WEIGHTS:
            reason = (
                f"step {step}: agreement weighs all alike (mean weight {weights.weight_mean:.4f}, effective sample "
                f"size {weights.effective_sample_size:.5f}): the views differ too little for "
                f"objective.agreement.gamma = {self._agreement.gamma:g}"
            )
            if self._agreement.scale_quantile is None:
                reason += "; objective.agreement.scale_quantile measures them against each other"
            self._report(Notice("learner", reason))
            self._agreement = None

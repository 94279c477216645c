"""What a step's numbers show that no loss curve does: alarms and notices, a line and an event each, which end nothing.

The numbers are `metrics.SignalMetrics` and `metrics.MismatchMetrics`, the bars `config.run.AlarmsConfig`.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from unisd_rl.config import Config
from unisd_rl.metrics import ENOUGH_TOKENS, MismatchMetrics, StepMetrics, WeightMetrics
from unisd_rl.types import Alarm, Notice, Report

EQUAL_WEIGHTS = 0.999
"""Effective sample size above which agreement weights are as good as equal."""


class Trend:
    """The mean of the last steps, and that of the first ones; both nan until there are `window` of them."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._first: list[float] = []
        self._last: deque[float] = deque(maxlen=window)

    def add(self, value: float) -> None:
        """The number of the next step; nan counts nowhere."""
        if math.isnan(value):
            return
        if len(self._first) < self._window:
            self._first.append(value)
        self._last.append(value)

    @property
    def first(self) -> float:
        """Mean of the first ones."""
        return self._mean(self._first)

    @property
    def last(self) -> float:
        """Mean of the last ones."""
        return self._mean(self._last)

    def _mean(self, values: "list[float] | deque[float]") -> float:
        return sum(values) / self._window if len(values) == self._window else math.nan


@dataclass(frozen=True, slots=True)
class Reading:
    """One signal at one step, against its bar."""

    signal: str
    value: float
    bar: float
    beyond: bool
    quiet: bool
    """Far enough on the right side that the next time counts as another alarm."""
    reason: str


class Alarms:
    """Watches every step of a run, and reports what begins."""

    def __init__(self, config: Config, report: Report) -> None:
        objective = config.objective
        self._agreement = objective.agreement if objective.divergence is not None else None
        self._bars, self._report = config.alarms, report
        self._sounding: set[str] = set()
        window = self._bars.window
        self._entropy, self._length, self._repeated, self._copied = (Trend(window) for _ in range(4))

    def observe(self, metrics: StepMetrics) -> None:
        """Report what this step shows for the first time."""
        signals = metrics.signals
        self._entropy.add(signals.policy_entropy)
        self._length.add(signals.completion_tokens_mean)
        self._repeated.add(signals.repeated_share)
        self._copied.add(signals.copied_share)
        for reading in (*self._mismatch(metrics.mismatch), *self._trends()):
            self._sound(metrics.step + 1, reading)
        self._observe_weights(metrics.step + 1, metrics.weights, metrics.counts.sequences)

    def _sound(self, step: int, reading: Reading) -> None:
        if reading.beyond and reading.signal not in self._sounding:
            reason = f"step {step}: {reading.reason}"
            self._report(Alarm("learner", reason, reading.signal, step, reading.value, reading.bar))
            self._sounding.add(reading.signal)
        elif reading.quiet:
            self._sounding.discard(reading.signal)

    def _mismatch(self, mismatch: MismatchMetrics) -> Iterator[Reading]:
        if mismatch.logprob_mismatch_tokens < ENOUGH_TOKENS:
            return
        differ = f"engine and learner differ by {mismatch.describe()}"
        if (bar := self._bars.mismatch_kl) is not None:
            kl = mismatch.logprob_mismatch_kl
            what = f"{differ}, a divergence of {kl:.3g} nats per token (bar: {bar:g})"
            reason = f"{what}; on-policy answers are not quite the student's"
            yield Reading("logprob_mismatch_kl", kl, bar, kl > bar, kl <= bar / 2, reason)
        if (bar := self._bars.mismatch_p99) is not None:
            p99 = mismatch.logprob_mismatch_p99
            reason = f"{differ}, and one token in a hundred by more than {p99:.3g} nats (bar: {bar:g})"
            yield Reading("logprob_mismatch_p99", p99, bar, p99 > bar, p99 <= bar, reason)

    def _trends(self) -> Iterator[Reading]:
        """A nan, which no comparison is true of, neither begins an alarm nor ends one."""
        window, bars = self._bars.window, self._bars
        if bars.entropy_fall is not None:
            now, bar = self._entropy.last, bars.entropy_fall * self._entropy.first
            reason = (
                f"the policy's entropy over {window} steps, {now:.3g} nats, is below {bars.entropy_fall:g} of that of "
                f"the first steps ({self._entropy.first:.3g}): it answers one way only"
            )
            yield Reading("policy_entropy", now, bar, now < bar, now >= bar, reason)
        if bars.length_factor is not None:
            now, first = self._length.last, self._length.first
            longer = now > first
            bar = first * bars.length_factor if longer else first / bars.length_factor
            beyond, word = (now > bar, "longer") if longer else (now < bar, "shorter")
            reason = (
                f"completions have {now:.1f} tokens on average over {window} steps, {word} than those of the first "
                f"steps ({first:.1f}) by more than a factor of {bars.length_factor:g}"
            )
            yield Reading("completion_tokens_mean", now, bar, beyond, not math.isnan(now) and not beyond, reason)
        for signal, trend, share, what in (
            ("repeated_share", self._repeated, bars.repeated_share, "repeat an earlier one"),
            ("copied_share", self._copied, bars.copied_share, "stand in what only the teacher read"),
        ):
            if share is not None:
                now = trend.last
                reason = (
                    f"{now:.0%} of a completion's runs of four tokens {what}, over {window} steps (bar: {share:.0%})"
                )
                yield Reading(signal, now, share, now > share, now <= share, reason)

    def _observe_weights(self, step: int, weights: WeightMetrics, sequences: int) -> None:
        """Where agreement weighs all alike, the run goes on without that mechanism: reported once."""
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

"""The answers on a report's first screen: did it learn, how sure, which mechanism acted, what held the run up."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from unisd_rl.evaluation.statistics import Comparison, compare
from unisd_rl.reporting.answers import visible
from unisd_rl.reporting.record import RecordedEvaluation, Row, RunRecord


@dataclass(frozen=True, slots=True)
class Finding:
    """A question, its answer in a few words, and what that rests on."""

    question: str
    answer: str
    reason: str


def paired(first: RecordedEvaluation, second: RecordedEvaluation) -> Comparison | None:
    """The second evaluation against the first, on the problems that both answered; None where there is none."""
    before, after = first.scores(), second.scores()
    common = sorted(before.keys() & after.keys())
    return compare([before[name] for name in common], [after[name] for name in common]) if common else None


def describe_comparison(compared: Comparison) -> str:
    """In points, with its interval and test."""
    low, high = 100 * compared.interval.low, 100 * compared.interval.high
    text = f"{100 * compared.difference:+.1f} points (95 %: {low:+.1f} to {high:+.1f}, {compared.problems} problems"
    return text + (")" if compared.mcnemar_p is None else f"; McNemar p = {compared.mcnemar_p:.2g})")


def findings(run: RunRecord) -> list[Finding]:
    """In the order in which one asks."""
    return [learnt(run), _mechanisms(run.rows), _held_up(run), _faults(run.events)]


def learnt(run: RunRecord) -> Finding:
    """The first of them."""
    question = "Did it learn, and how sure is that?"
    if len(run.evaluations) < 2:
        return Finding(question, "not known yet", f"{len(run.evaluations)} of at least two evaluations are there")
    first, last = run.evaluations[0], run.evaluations[-1]
    before, after = first.numbers["accuracy"], last.numbers["accuracy"]
    answer = (
        f"accuracy {before:.1%}{describe_cuts(first.numbers)} before, {after:.1%}{describe_cuts(last.numbers)} after "
        f"{last.step} steps"
        f"{_form(first.numbers, last.numbers)}"
    )
    compared = paired(first, last)
    if compared is None:
        return Finding(question, answer, "the two evaluations share no problem")
    sure = "the interval contains zero: it may be chance"
    if compared.interval.low > 0:
        sure = "the interval lies above zero"
    elif compared.interval.high < 0:
        sure = "the interval lies below zero: it got worse"
    return Finding(question, answer, f"{describe_comparison(compared)}; {sure}")


def describe_cuts(numbers: Mapping[str, Any]) -> str:
    """How many answers the limit on tokens ended: they count as wrong."""
    return f" ({cut} answers were cut)" if (cut := numbers.get("cut")) else ""


def _form(first: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    """Of multiple choice whether the form was learnt, or the knowledge."""
    before, after = first.get("choice"), last.get("choice")
    if not before or not after:
        return ""
    shares = [
        choice["stated"] / (numbers["problems"] * numbers["samples"])
        for choice, numbers in ((before, first), (after, last))
    ]
    said = f"; {shares[0]:.1%} of the answers stated an option before, {shares[1]:.1%} after"
    likeliest = [choice["likelihood_accuracy"] for choice in (before, after)]
    if None not in likeliest:
        said += f"; the likeliest option was right for {likeliest[0]:.1%}, then {likeliest[1]:.1%}"
    return f"{said}; chance is {after['chance']:.1%}, always {after['letter']} {after['most_frequent']:.1%}"


def _mechanisms(rows: Sequence[Row]) -> Finding:
    question = "Which mechanism acted on which tokens?"
    said = []
    if (share := _mean(rows, "weight_below_half")) is not None and _mean(rows, "weight_mean") is not None:
        said.append(f"agreement weighed {share:.1%} of the tokens below 0.5")
    if share := _mean(rows, "clipped_share"):
        said.append(f"the clip took the gradient of {share:.1%}")
    if (share := _mean(rows, "contrastive_active_share")) is not None:
        said.append(f"the contrast moved {share:.1%} of those that have a wrong demonstration")
    if loss := _mean(rows, "matching_loss"):
        said.append(f"feature matching made {loss:.3g} nats of the loss")
    if not rows:
        return Finding(question, "no step was taken yet", "")
    means = f"means over {len(rows)} steps; tokens below"
    return Finding(question, "; ".join(said) or "none beside the divergence", means)


def _held_up(run: RunRecord) -> Finding:
    question, rows = "What held the run up?", run.rows
    parts = {"waiting for rollouts": "wait_s", "learning": "learn_s", "publishing": "publish_s"}
    seconds = {name: sum(row.get(key) or 0.0 for row in rows) for name, key in parts.items()}
    total = sum(seconds.values())
    if not total:
        return Finding(question, "no step was taken yet", "")
    most = max(seconds, key=lambda name: seconds[name])
    shares = ", ".join(f"{name} {each / total:.0%}" for name, each in seconds.items())
    idle = _mean(rows, "actor_idle")
    reason = f"of {total:,.0f} s in {len(rows)} steps: {shares}"
    reason += "" if idle is None else f"; actors were idle {idle:.0%}"
    return Finding(question, f"mostly {most} ({seconds[most] / total:.0%})", reason)


def _faults(events: Sequence[Row]) -> Finding:
    kinds = Counter(event["event"] for event in events)
    counts = ", ".join(f"{count} {kind}{'s' * (count != 1)}" for kind, count in sorted(kinds.items()))
    last = next((event["reason"] for event in reversed(events) if event.get("reason")), "")
    return Finding("Did anything break?", counts or "nothing", visible(f"last: {last}") if last else "")


def _mean(rows: Sequence[Row], key: str) -> float | None:
    numbers: list[Any] = [row[key] for row in rows if isinstance(row.get(key), int | float)]
    finite = [number for number in numbers if math.isfinite(number)]
    return fmean(finite) if finite else None

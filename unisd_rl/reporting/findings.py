"""The answers on a report's first screen: did it learn, how sure, which mechanism acted, what held the run up."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unisd_rl.evaluation.statistics import Comparison, compare
from unisd_rl.reporting.answers import Tone, visible
from unisd_rl.reporting.mechanisms import Mechanism, mechanisms
from unisd_rl.reporting.record import RecordedEvaluation, Row, RunRecord


@dataclass(frozen=True, slots=True)
class Finding:
    """A question, its answer in a few words, and what that rests on."""

    question: str
    answer: str
    reason: str
    tone: Tone = Tone.OPEN
    shares: Sequence[tuple[str, float]] = ()
    """Parts of a whole, drawn as a bar."""
    mechanisms: Sequence[Mechanism] = ()


def paired(first: RecordedEvaluation, second: RecordedEvaluation) -> Comparison | None:
    """The second evaluation against the first, on the problems that both answered; None where there is none."""
    before, after = first.scores(), second.scores()
    common = sorted(before.keys() & after.keys())
    return compare([before[name] for name in common], [after[name] for name in common]) if common else None


def describe_comparison(compared: Comparison) -> str:
    """In points, with its interval and test."""
    low, high = 100 * compared.interval.low, 100 * compared.interval.high
    text = f"{describe_points(compared)} (95 %: {low:+.1f} to {high:+.1f}, {compared.problems} problems"
    return text + (")" if compared.mcnemar_p is None else f"; McNemar p = {compared.mcnemar_p:.2g})")


def describe_points(compared: Comparison) -> str:
    """The difference alone."""
    return f"{100 * compared.difference:+.1f} points"


def tone_of(compared: Comparison) -> Tone:
    """Good or bad where the interval of the difference does not contain zero."""
    if compared.interval.low > 0:
        return Tone.GOOD
    return Tone.BAD if compared.interval.high < 0 else Tone.OPEN


def findings(run: RunRecord) -> list[Finding]:
    """In the order in which one asks."""
    return [learnt(run), _acted(run), _held_up(run), _faults(run.events)]


_LEARNT = {Tone.GOOD: "yes", Tone.BAD: "no, it got worse", Tone.OPEN: "not sure"}
_LOSSES = {
    "divergence": "divergence_loss",
    "contrast": "contrastive_loss",
    "feature matching": "matching_loss",
    "likelihood": "likelihood_loss",
}
_SLOWER = {
    "rollouts": "generation: the learner waited for rollouts",
    "learner": "the learner: actors had no work",
    "both": "neither side: both waited as long",
}
_SURE = {
    Tone.GOOD: "the interval lies above zero",
    Tone.BAD: "the interval lies below zero",
    Tone.OPEN: "the interval contains zero, so it may be chance",
}


def learnt(run: RunRecord) -> Finding:
    """The first of them."""
    question = "Did it learn, and how sure is that?"
    if len(run.evaluations) < 2:
        return Finding(question, "not known yet", f"{len(run.evaluations)} of at least two evaluations are there")
    first, last = run.evaluations[0], run.evaluations[-1]
    before, after = (each.numbers["accuracy"] for each in (first, last))
    said = (
        f"accuracy {before:.1%}{describe_cuts(first.numbers)} before, {after:.1%}{describe_cuts(last.numbers)} after "
        f"{last.step} steps"
    )
    form = _form(first.numbers, last.numbers)
    compared = paired(first, last)
    if compared is None:
        return Finding(question, f"{before:.1%} \u2192 {after:.1%}", f"{said}, on no problem in common{form}")
    tone = tone_of(compared)
    reason = f"{said}: {describe_comparison(compared)}; {_SURE[tone]}; it is over problems, not over seeds{form}"
    return Finding(question, f"{_LEARNT[tone]}: {before:.1%} \u2192 {after:.1%}", reason, tone)


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


def _acted(run: RunRecord) -> Finding:
    question = "Which mechanism acted on which tokens?"
    if not run.rows:
        return Finding(question, "no step was taken yet", "")
    losses = {name: run.mean(key) or 0.0 for name, key in _LOSSES.items()}
    total, shares = sum(losses.values()), ""
    if total > 0.0 and min(losses.values()) >= 0.0:
        by_share = sorted(losses, key=losses.__getitem__, reverse=True)
        shares = ", ".join(f"{name} {losses[name] / total:.0%}" for name in by_share if losses[name])
    reason = f"means over {len(run.rows):,} steps"
    if run.samples:
        reason += f"; percentages of tokens: of all that it did in {len(run.samples):,} sampled answers; some are below"
    return Finding(question, f"loss: {shares}" if shares else "not known", reason, mechanisms=mechanisms(run))


def _held_up(run: RunRecord) -> Finding:
    question, rows = "What held the run up?", run.rows
    parts = {"learning": "learn_s", "waiting for rollouts": "wait_s", "publishing": "publish_s"}
    seconds = {name: sum(row.get(key) or 0.0 for row in rows) for name, key in parts.items()}
    total = sum(seconds.values())
    if not total:
        return Finding(question, "no step was taken yet", "")
    shares = [(name, each / total) for name, each in seconds.items()]
    ended = run.summary.get("bottleneck") or {}
    idle = ended.get("actor_idle", run.mean("actor_idle"))
    reason = f"of {total:,.0f} s in {len(rows):,} steps"
    reason += "" if idle is None else f"; actors had no work for {idle:.0%} of the time"
    if read := ended.get("read_s"):
        longest = sorted(read, key=read.__getitem__, reverse=True)
        reason += f"; learning: {', '.join(f'{name} {read[name]:,.0f} s' for name in longest if read[name] >= 0.5)}"
    return Finding(question, _slower(ended, seconds, total), reason, shares=shares)


def _slower(ended: Mapping[str, Any], seconds: Mapping[str, float], total: float) -> str:
    """Which side the other waited for, as the end of the run says (`driver/bottleneck.py`)."""
    if ended.get("colocated"):
        return "neither side: generation and learning took turns"
    if (found := _SLOWER.get(ended.get("bound_by", ""))) is not None:
        return found
    most = max(seconds, key=lambda name: seconds[name])
    return f"not known yet; most of the time was {most} ({seconds[most] / total:.0%})"


def _faults(events: Sequence[Row]) -> Finding:
    kinds = Counter(event["event"] for event in events)
    counts = ", ".join(f"{count} {kind}{'s' * (count != 1)}" for kind, count in sorted(kinds.items()))
    last = next((event["reason"] for event in reversed(events) if event.get("reason")), "")
    tone = Tone.BAD if kinds["failure"] else Tone.OPEN if kinds else Tone.GOOD
    return Finding("Did anything break?", counts or "nothing", visible(f"last: {last}") if last else "", tone)

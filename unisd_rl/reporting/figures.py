"""Which curves there are: a chart for each group of numbers of metrics.jsonl; for several runs, for each number."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from unisd_rl.reporting.charts import Chart, Curve, curve
from unisd_rl.reporting.record import RunRecord


@dataclass(frozen=True, slots=True)
class Group:
    """A chart of a run: `numbers` are (name of the curve, name in metrics.jsonl)."""

    title: str
    text: str
    numbers: Sequence[tuple[str, str]]
    percent: bool = False


GROUPS = (
    Group(
        "Loss terms",
        "What is minimised, and its parts, in nats.",
        (
            ("loss", "loss"),
            ("divergence", "divergence_loss"),
            ("contrastive", "contrastive_loss"),
            ("matching", "matching_loss"),
            ("likelihood", "likelihood_loss"),
        ),
    ),
    Group(
        "Divergence",
        "Between student and teacher, nats per token: mean, median, and what 5 % of the tokens exceed.",
        (("mean", "divergence"), ("median", "divergence_p50"), ("95th percentile", "divergence_p95")),
    ),
    Group(
        "Agreement weights",
        "1 trusts a token fully; low where the views disagree about it.",
        (
            ("mean", "weight_mean"),
            ("5th percentile", "weight_p05"),
            ("share below 0.5", "weight_below_half"),
            ("effective sample size", "effective_sample_size"),
        ),
    ),
    Group(
        "Clip and contrast",
        "Shares of tokens: whose divergence lost its gradient to the clip, and on which the contrast acts.",
        (("clipped", "clipped_share"), ("contrast acts", "contrastive_active_share")),
        percent=True,
    ),
    Group(
        "Entropy",
        "How sure student and teacher are, nats per token.",
        (("student", "policy_entropy"), ("teacher", "teacher_entropy")),
    ),
    Group(
        "Repetition and copying",
        "Shares of a completion's runs of four tokens: seen in it before, and copied from what only the teacher reads.",
        (("repeated", "repeated_share"), ("copied", "copied_share")),
        percent=True,
    ),
    Group(
        "Lengths",
        "Tokens of a completion.",
        (("tokens per completion", "tokens_per_sequence"),),
    ),
    Group(
        "Cut completions",
        "Share of the completions that the limit on tokens cut.",
        (("cut", "truncated_share"),),
        percent=True,
    ),
    Group(
        "Staleness",
        "Steps between a token's policy and the step that trains on it.",
        (("mean", "staleness_mean"), ("largest", "staleness_max")),
    ),
    Group(
        "Engine and learner",
        "How far their log-probs of the same tokens are apart, nats.",
        (("root mean square", "logprob_mismatch_rms"), ("99th percentile", "logprob_mismatch_p99")),
    ),
    Group(
        "Who waited for whom",
        "Shares of a step: the learner waiting for rollouts, and actors without work.",
        (("learner waits", "learner_wait"), ("actors idle", "actor_idle")),
        percent=True,
    ),
    Group(
        "Where a step's time went",
        "Seconds.",
        (("waiting", "wait_s"), ("learning", "learn_s"), ("publishing", "publish_s")),
    ),
    Group("Speed", "Tokens per second.", (("tokens per second", "tokens_per_s"),)),
    Group(
        "Teacher",
        "Norm of student minus teacher, and of the teacher's last update, relative to the teacher's.",
        (("distance", "teacher_student_distance"), ("update", "teacher_update_norm")),
    ),
    Group("Optimiser", "Norm of the gradient before it is clipped.", (("gradient norm", "grad_norm"),)),
)


def charts_of_run(run: RunRecord) -> Iterator[Chart]:
    """Accuracy with its interval, then every group of which there are numbers."""
    yield _accuracy([run], ["accuracy"])
    rows = rows_with_derived(run)
    for group in GROUPS:
        curves = [found for name, key in group.numbers if (found := curve(rows, name, key)).points]
        if any(number for found in curves for _, number in found.points):
            yield Chart(group.title, group.text, curves, group.percent)


def charts_of_runs(runs: Sequence[RunRecord], names: Sequence[str]) -> Iterator[Chart]:
    """Each number of each group, one curve a run."""
    yield _accuracy(runs, names)
    rows = [rows_with_derived(run) for run in runs]
    for group in GROUPS:
        for label, key in group.numbers:
            curves = [found for name, own in zip(names, rows, strict=True) if (found := curve(own, name, key)).points]
            if any(number for found in curves for _, number in found.points):
                title = group.title if len(group.numbers) == 1 else f"{group.title}: {label}"
                yield Chart(title, group.text, curves, group.percent)


def _accuracy(runs: Sequence[RunRecord], names: Sequence[str]) -> Chart:
    text = "On held-out problems, with 95 % intervals."
    return Chart("Accuracy", text, [accuracy_curve(*each) for each in zip(runs, names, strict=True)], percent=True)


def accuracy_curve(run: RunRecord, name: str) -> Curve:
    """Accuracy over steps with its 95 % interval."""
    found = [(evaluation.step, evaluation.numbers) for evaluation in run.evaluations]
    intervals = [(numbers["interval"]["low"], numbers["interval"]["high"]) for _, numbers in found]
    return Curve(name, [(step, numbers["accuracy"]) for step, numbers in found], intervals)


def rows_with_derived(run: RunRecord) -> list[dict[str, Any]]:
    """The steps, with the mean length of a completion, which runs of earlier versions do not note."""
    return [{**row, "tokens_per_sequence": row["tokens"] / row["sequences"]} for row in run.rows if row["sequences"]]

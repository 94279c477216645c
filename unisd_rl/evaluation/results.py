"""The results of the command `evaluate`: files in its folder, and tables for the console.

| file | contents |
|---|---|
| results.json | the numbers of each model on each task, the comparisons, the settings |
| answers.parquet | every answer, with its tokens (`ANSWERS_SCHEMA`) |
| answers/MODEL-TASK.jsonl | the same as lines, for a person |
| retention.parquet | retention by completion, where it is measured (`RETENTION_SCHEMA`) |
| model-N/logs/ | one log per process |
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from unisd_rl.config import Config
from unisd_rl.evaluation.evaluate import Evaluation
from unisd_rl.evaluation.retention import Likelihood, Retention
from unisd_rl.evaluation.statistics import Comparison, compare
from unisd_rl.storage.jsonl import json_text
from unisd_rl.types import Answer


@dataclass(frozen=True, slots=True)
class Result:
    """One model on one task, by their names on the command line."""

    model: str
    task: str
    config: Config
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """A model compared with the first one on the same problems."""

    task: str
    first: str
    second: str
    comparison: Comparison


def comparisons(results: Sequence[Result]) -> list[ModelComparison]:
    """Compare every other model with the first, task by task, by the score of each problem."""
    firsts = {result.task: result for result in reversed(results)}
    return [
        ModelComparison(
            task=result.task,
            first=first.model,
            second=result.model,
            comparison=compare(first.evaluation.scores(), result.evaluation.scores()),
        )
        for result in results
        if (first := firsts[result.task]) is not result
    ]


def write_answers(folder: Path, results: Sequence[Result]) -> None:
    """Write every answer, before anything else is done with them."""
    lines = folder / "answers"
    lines.mkdir(parents=True, exist_ok=True)
    models = list(dict.fromkeys(result.model for result in results))
    for result in results:
        name = f"model-{models.index(result.model)}-{result.task}.jsonl"
        (lines / name).write_text(json_lines(result.evaluation.answers), encoding="utf-8")
    tables = [answers_table(result.model, result.task, result.evaluation.answers) for result in results]
    pq.write_table(pa.concat_tables(tables), folder / "answers.parquet")


def write_results(folder: Path, results: Sequence[Result], compared: Sequence[ModelComparison]) -> None:
    """Write the numbers, and retention by completion."""
    tables = [
        retention_table(result.model, result.task, result.evaluation.retention)
        for result in results
        if result.evaluation.retention
    ]
    if tables:
        pq.write_table(pa.concat_tables(tables), folder / "retention.parquet")
    sections = {"run", "model", "task", "rollout", "evaluation"}
    rows = [
        {
            "model": result.model,
            "task": result.task,
            **result.evaluation.to_json(result.config.evaluation.k),
            "settings": result.config.model_dump(mode="json", include=sections),
        }
        for result in results
    ]
    content = {"results": rows, "comparisons": [asdict(comparison) for comparison in compared]}
    (folder / "results.json").write_text(json_text(content), encoding="utf-8")


ANSWERS_SCHEMA = pa.schema(
    {
        "model": pa.string(),
        "task": pa.string(),
        "id": pa.string(),
        "sample": pa.int32(),
        "question": pa.string(),
        "prompt_tokens": pa.list_(pa.int32()),
        "completion": pa.string(),
        "completion_tokens": pa.list_(pa.int32()),
        "logprobs": pa.list_(pa.float32()),
        "reference": pa.string(),
        "stated": pa.string(),
        "correct": pa.bool_(),
        "finish_reason": pa.string(),
    }
)
"""One row per answer. `logprobs`: of the distribution that was sampled from, at temperature 1 where it was greedy.
`stated`: what the grader read as the answer; null where it read none, or does not say."""


def json_lines(answers: Sequence[Answer]) -> str:
    """One JSON object per answer; `tokens` is the length of the completion."""
    return "".join(json.dumps(_answer_row(answer)) + "\n" for answer in answers)


def answers_table(model: str, task: str, answers: Sequence[Answer]) -> pa.Table:
    """The answers of one model to one task, by `ANSWERS_SCHEMA`."""
    rows = [
        {
            "model": model,
            "task": task,
            **_answer_row(answer),
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.generation.tokens,
            "logprobs": answer.generation.logprobs,
        }
        for answer in answers
    ]
    return pa.Table.from_pylist(rows, ANSWERS_SCHEMA)


def _answer_row(answer: Answer) -> dict[str, object]:
    return {
        "id": answer.id,
        "sample": answer.sample,
        "question": answer.question,
        "completion": answer.completion,
        "tokens": len(answer.generation.tokens),
        "reference": answer.reference,
        "stated": answer.stated,
        "correct": answer.correct,
        "finish_reason": answer.generation.finish_reason,
    }


RETENTION_SCHEMA = pa.schema(
    {
        "model": pa.string(),
        "task": pa.string(),
        "completion": pa.string(),
        "id": pa.string(),
        "sample": pa.int32(),
        "tokens": pa.int32(),
        "logprob": pa.float64(),
        "divergence": pa.float64(),
    }
)
"""One row per completion: `gold` (log-prob under the adapted model) or the model's `own` (under the base).

`logprob` and `divergence` are sums over its tokens in nats; null where there is none."""


def retention_table(model: str, task: str, retention: Retention) -> pa.Table:
    """One row per completion, by `RETENTION_SCHEMA`."""

    def row(completion: str, likelihood: Likelihood, divergence: float | None) -> dict[str, object]:
        names = {"model": model, "task": task, "completion": completion}
        return {**names, **asdict(likelihood), "divergence": divergence}

    rows = [row("gold", gold, None) for gold in retention.gold]
    rows += [row("own", drift.likelihood, drift.divergence) for drift in retention.answers]
    return pa.Table.from_pylist(rows, RETENTION_SCHEMA)


def results_table(results: Sequence[Result], ks: Sequence[int]) -> Table:
    """One line for each model on each task."""
    table = Table(title="held-out problems", title_justify="left")
    for name in ("model", "task"):
        table.add_column(name, overflow="fold")
    retention = any(result.evaluation.retention for result in results)
    samples = max((result.evaluation.samples for result in results), default=1)
    one = "accuracy (95 %)" if samples == 1 else f"avg@{samples} (95 %)"
    rates = [f"pass@{k} (95 %)" for k in ks] if list(ks) != [1] else [one]
    for name in ("right", "answers", *rates, "cut", "tokens", *(("PPLfit", "PPLret", "JSD") if retention else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        table.add_row(result.model, result.task, *_numbers(result.evaluation, ks, retention))
    return table


def comparison_table(comparisons: Sequence[ModelComparison]) -> Table:
    """One line for each model but the first, on the same problems."""
    table = Table(title="compared with the first model, on the same problems", title_justify="left")
    for name in ("model", "task"):
        table.add_column(name, overflow="fold")
    for name in ("difference (95 %)", "only it right", "only the first right", "McNemar p"):
        table.add_column(name, justify="right", no_wrap=True)
    for compared in comparisons:
        numbers = compared.comparison
        low, high = 100 * numbers.interval.low, 100 * numbers.interval.high
        difference = f"{100 * numbers.difference:+.1f} ({low:+.1f} to {high:+.1f})"
        discordant = ["-" if count is None else str(count) for count in (numbers.only_second, numbers.only_first)]
        p_value = "-" if numbers.mcnemar_p is None else f"{numbers.mcnemar_p:.3g}"
        table.add_row(compared.second, compared.task, difference, *discordant, p_value)
    return table


def _numbers(evaluation: Evaluation, ks: Sequence[int], retention: bool) -> list[str]:
    cells = [str(evaluation.correct), str(len(evaluation.answers))]
    for k in ks:
        rate = evaluation.pass_rate(k)
        cells.append(f"{100 * rate.rate:.1f} ({100 * rate.interval.low:.1f} to {100 * rate.interval.high:.1f})")
    cells += [str(evaluation.cut), f"{evaluation.mean_tokens:.1f}"]
    if retention:
        measured = evaluation.retention
        numbers = (measured.ppl_fit, measured.ppl_ret, measured.jsd) if measured else ()
        cells += [f"{number:.4f}" for number in numbers] or ["-", "-", "-"]
    return cells

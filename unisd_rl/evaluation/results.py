"""What the command `evaluate` leaves behind.

| file | what it holds |
|---|---|
| results.json | the numbers of each model on each task, the comparisons, the settings |
| answers.parquet | every answer, with its tokens (`answers.SCHEMA`) |
| answers/MODEL-TASK.jsonl | the same as lines, for a person |
| retention.parquet | retention by completion, where it is measured (`retention.table.SCHEMA`) |
| model-N/logs/ | every process its own |

Every answer of an evaluation on storage: as lines for a person, as a Parquet table with all tokens for a program.

Retention completion by completion, as a Parquet table: what the pooled and per-example numbers are made of.

What an evaluation found, as tables for a person.
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
from unisd_rl.evaluation.statistics import Comparison, Interval, compare
from unisd_rl.storage.jsonl import nan_to_none
from unisd_rl.types import Answer


@dataclass(frozen=True, slots=True)
class Result:
    """One model on one task, by their names on the command line."""

    model: str
    task: str
    config: Config
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class Compared:
    """A model beside the first one on the same problems."""

    task: str
    first: str
    second: str
    comparison: Comparison


def comparisons(results: Sequence[Result]) -> list[Compared]:
    """Every model but the first against it, task by task, by the score of each problem."""
    firsts = {result.task: result for result in reversed(results)}
    return [
        Compared(one.task, first.model, one.model, compare(first.evaluation.scores(), one.evaluation.scores()))
        for one in results
        if (first := firsts[one.task]) is not one
    ]


def write_answers(folder: Path, results: Sequence[Result]) -> None:
    """Every answer, before anything else is done with them."""
    lines = folder / "answers"
    lines.mkdir(parents=True, exist_ok=True)
    models = list(dict.fromkeys(result.model for result in results))
    for result in results:
        name = f"model-{models.index(result.model)}-{result.task}.jsonl"
        (lines / name).write_text(json_lines(result.evaluation.answers), encoding="utf-8")
    tables = [answers_table(one.model, one.task, one.evaluation.answers) for one in results]
    pq.write_table(pa.concat_tables(tables), folder / "answers.parquet")


def write_results(folder: Path, results: Sequence[Result], compared: Sequence[Compared]) -> None:
    """The numbers, and retention by completion."""
    tables = [
        retention_table(one.model, one.task, one.evaluation.retention) for one in results if one.evaluation.retention
    ]
    if tables:
        pq.write_table(pa.concat_tables(tables), folder / "retention.parquet")
    content = {
        "results": [_row(result) for result in results],
        "comparisons": [asdict(one) for one in compared],
    }
    (folder / "results.json").write_text(json.dumps(nan_to_none(content), indent=2) + "\n", encoding="utf-8")


def _row(result: Result) -> dict[str, object]:
    settings = result.config.model_dump(mode="json", include={"run", "model", "task", "rollout", "evaluation"})
    numbers = result.evaluation.to_json(result.config.evaluation.k)
    return {"model": result.model, "task": result.task, **numbers, "settings": settings}


ANSWERS_SCHEMA = pa.schema(
    {
        "model": pa.string(),
        "task": pa.string(),
        "id": pa.string(),
        "sample": pa.int32(),
        "prompt_tokens": pa.list_(pa.int32()),
        "completion": pa.string(),
        "completion_tokens": pa.list_(pa.int32()),
        "logprobs": pa.list_(pa.float32()),
        "reference": pa.string(),
        "correct": pa.bool_(),
        "finish_reason": pa.string(),
    }
)
"""One row an answer. `logprobs`: of the distribution that was sampled from, at temperature 1 where it was greedy."""


def json_lines(answers: Sequence[Answer]) -> str:
    """One JSON object an answer; `tokens` is how many the completion has."""
    return "".join(json.dumps(_answer_row(answer)) + "\n" for answer in answers)


def answers_table(model: str, task: str, answers: Sequence[Answer]) -> pa.Table:
    """The answers of one model to one task, by `SCHEMA`."""
    columns = {
        "model": [model] * len(answers),
        "task": [task] * len(answers),
        "id": [answer.id for answer in answers],
        "sample": [answer.sample for answer in answers],
        "prompt_tokens": [answer.prompt_tokens for answer in answers],
        "completion": [answer.completion for answer in answers],
        "completion_tokens": [answer.generation.tokens for answer in answers],
        "logprobs": [answer.generation.logprobs for answer in answers],
        "reference": [answer.reference for answer in answers],
        "correct": [answer.correct for answer in answers],
        "finish_reason": [answer.generation.finish_reason for answer in answers],
    }
    return pa.table(columns, ANSWERS_SCHEMA)


def _answer_row(answer: Answer) -> dict[str, object]:
    return {
        "id": answer.id,
        "sample": answer.sample,
        "completion": answer.completion,
        "tokens": len(answer.generation.tokens),
        "reference": answer.reference,
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
"""`completion` is `gold` (log-prob under the adapted model) or `own` (under the base). `logprob` and `divergence` are
sums over its tokens in nats; null where there is none."""


def retention_table(model: str, task: str, retention: Retention) -> pa.Table:
    """One row a completion, by `SCHEMA`."""
    rows = [_retention_row(model, task, "gold", gold, None) for gold in retention.gold]
    rows += [_retention_row(model, task, "own", drift.likelihood, drift.divergence) for drift in retention.answers]
    return pa.Table.from_pylist(rows, RETENTION_SCHEMA)


def _retention_row(
    model: str, task: str, completion: str, likelihood: Likelihood, divergence: float | None
) -> dict[str, object]:
    return {
        "model": model,
        "task": task,
        "completion": completion,
        "id": likelihood.id,
        "sample": likelihood.sample,
        "tokens": likelihood.tokens,
        "logprob": likelihood.logprob,
        "divergence": divergence,
    }


def results_table(results: Sequence[Result], ks: Sequence[int]) -> Table:
    """One line for each model on each task."""
    table = Table(title="held-out problems", title_justify="left")
    for name in ("model", "task"):
        table.add_column(name, overflow="fold")
    retention = any(result.evaluation.retention for result in results)
    rates = [f"pass@{k} (95 %)" for k in ks] if list(ks) != [1] else ["accuracy (95 %)"]
    for name in ("right", "answers", *rates, "cut", "tokens", *(("PPLfit", "PPLret", "JSD") if retention else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        table.add_row(result.model, result.task, *_numbers(result.evaluation, ks, retention))
    return table


def comparison_table(comparisons: Sequence[Compared]) -> Table:
    """One line for each model beside the first, on the same problems."""
    table = Table(title="against the first model, on the same problems", title_justify="left")
    for name in ("model", "task"):
        table.add_column(name, overflow="fold")
    for name in ("difference (95 %)", "only it right", "only the first", "McNemar p"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in comparisons:
        found = one.comparison
        difference = f"{100 * found.difference:+.1f} ({_points(found.interval)})"
        discordant = [_or_dash(count) for count in (found.only_second, found.only_first)]
        p_value = "-" if found.mcnemar_p is None else f"{found.mcnemar_p:.3g}"
        table.add_row(one.second, one.task, difference, *discordant, p_value)
    return table


def _numbers(evaluation: Evaluation, ks: Sequence[int], retention: bool) -> list[str]:
    cells = [str(evaluation.correct), str(len(evaluation.answers))]
    for k in ks:
        rate = evaluation.pass_rate(k)
        cells.append(f"{100 * rate.rate:.1f} ({100 * rate.interval.low:.1f} to {100 * rate.interval.high:.1f})")
    cells += [str(evaluation.cut), f"{evaluation.mean_tokens:.1f}"]
    if retention:
        found = evaluation.retention
        numbers = (found.ppl_fit, found.ppl_ret, found.jsd) if found else ()
        cells += [f"{number:.4f}" for number in numbers] or ["-", "-", "-"]
    return cells


def _points(interval: Interval) -> str:
    return f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f}"


def _or_dash(count: int | None) -> str:
    return "-" if count is None else str(count)

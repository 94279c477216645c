"""Retention completion by completion, as a Parquet table: what the pooled and per-example numbers are made of."""

import pyarrow as pa

from unisd_rl.evaluation.retention import Likelihood, Retention

SCHEMA = pa.schema(
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
    rows = [_row(model, task, "gold", gold, None) for gold in retention.gold]
    rows += [_row(model, task, "own", drift.likelihood, drift.divergence) for drift in retention.answers]
    return pa.Table.from_pylist(rows, SCHEMA)


def _row(model: str, task: str, completion: str, likelihood: Likelihood, divergence: float | None) -> dict[str, object]:
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

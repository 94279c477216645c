"""Every answer of an evaluation on storage: as lines for a person, as a Parquet table with all tokens for a program."""

import json
from collections.abc import Sequence

import pyarrow as pa

from unisd_rl.types import Answer

SCHEMA = pa.schema(
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
    return "".join(json.dumps(_row(answer)) + "\n" for answer in answers)


def table(model: str, task: str, answers: Sequence[Answer]) -> pa.Table:
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
    return pa.table(columns, SCHEMA)


def _row(answer: Answer) -> dict[str, object]:
    return {
        "id": answer.id,
        "sample": answer.sample,
        "completion": answer.completion,
        "tokens": len(answer.generation.tokens),
        "reference": answer.reference,
        "correct": answer.correct,
        "finish_reason": answer.generation.finish_reason,
    }

"""Rows that come in with a commit, and the batch that goes out for one step, split for the learner's ranks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from unisd_rl.transport.rollouts.schema import rows_of, to_ipc


@dataclass(frozen=True, slots=True)
class CommittedRow:
    """One row of a commit: its prompt, its completion tokens, and the oldest version among them.

    `oldest` is None for rows that no policy sampled and for empty completions.
    """

    number: int
    tokens: int
    oldest: int | None


Shard = TypeVar("Shard")


@dataclass(frozen=True, slots=True)
class QueueBatch(Generic[Shard]):
    """The rollouts of one optimiser step, in prompt order, split for the learner's ranks.

    `shards[r]` is (or refers to) an Arrow IPC stream with groups r, r + len(shards), ... of those there are; it has
    zero rows when there are fewer groups than ranks. `numbers` are the prompt numbers of all rows, quarantined ones
    left out. `max_staleness` is that of the oldest token (0 without policy rows), `tokens` counts
    completion tokens. `depth` rollouts more are complete, for later steps.
    """

    step: int
    shards: tuple[Shard, ...]
    numbers: tuple[int, ...]
    max_staleness: int
    tokens: int
    depth: int


@dataclass(frozen=True, slots=True)
class ConsumedRecord:
    """One line of `consumed.jsonl`: a prompt that a step trained on.

    `learner_lineage` is that of the step, `lineage` that of the newest token; `oldest` and `newest` are the lowest and
    the highest policy version among its tokens; all three are None for rows that no policy sampled and for empty
    completions. `tokens` counts completion tokens.
    """

    step: int
    learner_lineage: int
    prompt: int
    id: str
    source: str
    lineage: int | None
    oldest: int | None
    newest: int | None
    tokens: int
    actor: str

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> "ConsumedRecord":
        """A line as it was written; runs before this version call the learner's lineage `chain`."""
        fields = dict(line)
        if "chain" in fields:
            fields["learner_lineage"] = fields.pop("chain")
        return cls(**fields)


def committed_rows(rows: pa.Table) -> list[CommittedRow]:
    """The rows of a table of rollouts, in order."""
    columns = zip(rows["number"].to_pylist(), completion_lengths(rows), value_ranges(rows["versions"]), strict=True)
    return [CommittedRow(number, tokens, span[0] if span else None) for number, tokens, span in columns]


def split_for_ranks(rows: pa.Table, shards: int, group_size: int) -> tuple[pa.Buffer, ...]:
    """Deal the groups in turn to `shards` IPC streams, whole: of the groups that have rows, i goes to i mod `shards`.

    Group g is the numbers g * `group_size` and on; rows are in the order of their numbers.
    """
    _, group_of_row = np.unique(rows["number"].to_numpy() // group_size, return_inverse=True)
    picks = [np.flatnonzero(group_of_row % shards == shard).tolist() for shard in range(shards)]
    return tuple(to_ipc(*rows_of(rows, pick).to_batches()) for pick in picks)


def consumed_records(step: int, learner_lineage: int, rows: pa.Table) -> list[ConsumedRecord]:
    """The line of each row in `consumed.jsonl`, when `step` trains on it."""
    numbers, ids, sources, actors = (rows[name].to_pylist() for name in ("number", "id", "source", "actor"))
    spans = zip(value_ranges(rows["versions"]), value_ranges(rows["lineages"]), strict=True)
    return [
        ConsumedRecord(
            step=step,
            learner_lineage=learner_lineage,
            prompt=number,
            id=ids[row],
            source=sources[row],
            lineage=lineage[1] if lineage else None,
            oldest=version[0] if version else None,
            newest=version[1] if version else None,
            tokens=tokens,
            actor=actors[row],
        )
        for row, (number, tokens, (version, lineage)) in enumerate(
            zip(numbers, completion_lengths(rows), spans, strict=True)
        )
    ]


def completion_lengths(rows: pa.Table) -> list[int]:
    """Completion tokens of each row."""
    return [
        length for chunk in rows["completion_tokens"].chunks for length in np.diff(chunk.offsets.to_numpy()).tolist()
    ]


def value_ranges(column: pa.ChunkedArray) -> list[tuple[int, int] | None]:
    """Lowest and highest value of each list, None for null and empty ones, without a Python object per value.

    From the arrays themselves: Arrow's functions take longer to be called than this takes for a few rows.
    """
    spans: list[tuple[int, int] | None] = []
    for chunk in column.chunks:
        first, found = len(spans), chunk if not chunk.null_count else chunk.fill_null([])
        spans += [None] * len(chunk)
        offsets = found.offsets.to_numpy()
        filled = np.flatnonzero(np.diff(offsets))
        if filled.size:
            values, starts = found.values.to_numpy()[: offsets[-1]], offsets[filled]
            lowest, highest = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
            for row, low, high in zip(filled.tolist(), lowest.tolist(), highest.tolist(), strict=True):
                spans[first + row] = (low, high)
    return spans

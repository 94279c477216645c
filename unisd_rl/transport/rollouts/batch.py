"""What comes in with a commit, and what goes out for one step: the batch, cut into a share per learner rank."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unisd_rl.transport.rollouts.journal import Record
from unisd_rl.transport.rollouts.schema import SCHEMA, read_ipc, rows_of, to_ipc


@dataclass(frozen=True, slots=True)
class Arrival:
    """One row of a commit: its prompt, its completion tokens, and the oldest version among them.

    `oldest` is None for rows that no policy sampled and for empty completions.
    """

    number: int
    tokens: int
    oldest: int | None


@dataclass(frozen=True, slots=True)
class TakenBatch:
    """The rollouts of one optimiser step, in prompt order, dealt to the learner's ranks.

    `shards[r]` is an Arrow IPC stream with rows r, r + len(shards), ...; it has zero rows when there
    are fewer rollouts than ranks. `numbers` are the prompt numbers of all rows, quarantined ones left
    out. `max_staleness` is that of the oldest token (0 without policy rows), `tokens` counts
    completion tokens.
    """

    step: int
    shards: tuple[bytes, ...]
    numbers: tuple[int, ...]
    max_staleness: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Consumed:
    """One line of `consumed.jsonl`: a prompt that a step trained on.

    `chain` is the learner's lineage. `lineage` is that of the newest token; `oldest` and `newest` are the lowest and
    the highest policy version among its tokens; all three are None for rows that no policy sampled and for empty
    completions. `tokens` counts completion tokens.
    """

    step: int
    chain: int
    prompt: int
    id: str
    source: str
    lineage: int | None
    oldest: int | None
    newest: int | None
    tokens: int
    actor: str

    def record(self) -> Record:
        """The line as a JSON object."""
        return asdict(self)


def arrivals(data: bytes) -> list[Arrival]:
    """The rows of an IPC stream of rollouts, in order. Raises ValueError when it has another schema."""
    rows = pa.Table.from_batches(read_ipc(data), schema=SCHEMA)
    facts = zip(rows["number"].to_pylist(), _lengths(rows), _spans(rows["versions"]), strict=True)
    return [Arrival(number, tokens, span[0] if span else None) for number, tokens, span in facts]


def deal(rows: pa.Table, shards: int) -> tuple[bytes, ...]:
    """Deal the rows in turn to `shards` IPC streams: row i goes to stream i mod `shards`."""
    picks = [range(shard, rows.num_rows, shards) for shard in range(shards)]
    return tuple(to_ipc(*rows_of(rows, pick).to_batches()) for pick in picks)


def describe(step: int, chain: int, rows: pa.Table) -> list[Consumed]:
    """What `consumed.jsonl` says of each row when `step` trains on it in the lineage `chain`."""
    facts = rows.select(["number", "id", "source", "actor"]).to_pylist()
    lengths, versions, lineages = _lengths(rows), _spans(rows["versions"]), _spans(rows["lineages"])
    return [
        Consumed(
            step=step,
            chain=chain,
            prompt=fact["number"],
            id=fact["id"],
            source=fact["source"],
            lineage=lineage[1] if lineage else None,
            oldest=version[0] if version else None,
            newest=version[1] if version else None,
            tokens=tokens,
            actor=fact["actor"],
        )
        for fact, tokens, version, lineage in zip(facts, lengths, versions, lineages, strict=True)
    ]


def _lengths(rows: pa.Table) -> Sequence[int]:
    return pc.list_value_length(rows["completion_tokens"]).to_pylist()


def _spans(column: pa.ChunkedArray) -> list[tuple[int, int] | None]:
    """Lowest and highest value of each list, None for null and empty ones, without a Python object per value."""
    found: list[tuple[int, int] | None] = []
    for chunk in column.chunks:
        values, offsets = chunk.values.to_numpy(zero_copy_only=False), chunk.offsets.to_numpy()
        nulls = chunk.is_null().to_pylist()
        for null, start, stop in zip(nulls, offsets[:-1], offsets[1:], strict=True):
            part = values[start:stop]
            found.append(None if null or not len(part) else (int(np.min(part)), int(np.max(part))))
    return found

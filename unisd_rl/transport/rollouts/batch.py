"""What the queue hands to the learner for one step: the batch, cut into a share per learner rank."""

from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc

from unisd_rl.transport.rollouts.journal import Record
from unisd_rl.transport.rollouts.schema import rows_of, to_ipc


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

    `lineage` is that of the newest token; `oldest` and `newest` are the lowest and the highest policy
    version among its tokens; all three are None for rows that no policy sampled and for empty
    completions. `tokens` counts completion tokens. `chain` is the lineage of the learner that took it.
    """

    chain: int
    step: int
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


def deal(rows: pa.Table, shards: int) -> tuple[bytes, ...]:
    """Deal the rows in turn to `shards` IPC streams: row i goes to stream i mod `shards`."""
    picks = [range(shard, rows.num_rows, shards) for shard in range(shards)]
    return tuple(to_ipc(*rows_of(rows, pick).to_batches()) for pick in picks)


def describe(chain: int, step: int, rows: pa.Table) -> list[Consumed]:
    """What `consumed.jsonl` says of each row when `step` of lineage `chain` trains on it."""
    facts = rows.select(["number", "id", "source", "actor"]).append_column(
        "tokens", pc.list_value_length(rows["completion_tokens"])
    )
    spans = zip(rows["lineages"].to_pylist(), rows["versions"].to_pylist(), strict=True)
    return [
        Consumed(
            chain=chain,
            step=step,
            prompt=fact["number"],
            id=fact["id"],
            source=fact["source"],
            lineage=max(lineages, default=None) if lineages else None,
            oldest=min(versions) if versions else None,
            newest=max(versions) if versions else None,
            tokens=fact["tokens"],
            actor=fact["actor"],
        )
        for fact, (lineages, versions) in zip(facts.to_pylist(), spans, strict=True)
    ]

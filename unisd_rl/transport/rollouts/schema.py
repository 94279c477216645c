"""The Arrow schema of rollouts, on the wire and in the ledger, written as IPC streams.

A rollout actor encodes what it completed; the ledger stores those bytes as they are; the queue
cuts each learner rank's share out of them; the learner decodes. Log-probs, lineages and versions
are null for rows that no policy sampled (`gold`, `base`).

Always cut through IPC (`to_ipc`): pickling a slice of a batch would ship its whole parent.
"""

from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from operator import attrgetter
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from unisd_rl.types import Rollout, Source, TokenView, ViewKind

Stream: TypeAlias = bytes | memoryview | pa.Buffer
"""An IPC stream in memory."""

_TOKENS = pa.list_(pa.field("item", pa.int32(), nullable=False))
_LOGPROBS = pa.list_(pa.field("item", pa.float32(), nullable=False))
_VIEW = pa.struct([pa.field("kind", pa.string(), nullable=False), pa.field("tokens", _TOKENS, nullable=False)])
_VIEWS = pa.list_(pa.field("item", _VIEW, nullable=False))

SCHEMA = pa.schema(
    [
        pa.field("number", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("prompt_tokens", _TOKENS, nullable=False),
        pa.field("views", _VIEWS, nullable=False),
        pa.field("completion_tokens", _TOKENS, nullable=False),
        pa.field("logprobs", _LOGPROBS),
        pa.field("lineages", _TOKENS),
        pa.field("versions", _TOKENS),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("actor", pa.string(), nullable=False),
        pa.field("started_s", pa.float64(), nullable=False),
        pa.field("finished_s", pa.float64(), nullable=False),
    ],
    metadata={"unisd_rl.rollouts": "1"},
)
assert SCHEMA.names == [field.name for field in fields(Rollout)], "a row is the fields of a Rollout, in their order"


def encode(rollouts: Sequence[Rollout]) -> pa.Buffer:
    """One IPC stream with one row a rollout, in order. Ray sends and receives a Buffer without copying it."""
    return to_ipc(to_batch(rollouts))


def decode(data: Stream) -> list[Rollout]:
    """The rollouts of an IPC stream, in order. Their arrays are read-only views into `data`.

    Raises ValueError when the stream has another schema.
    """
    return [rollout for batch in read_ipc(data) for rollout in from_batch(batch)]


def to_ipc(*batches: pa.RecordBatch) -> pa.Buffer:
    """The batches as one IPC stream that holds their rows and nothing else; none gives zero rows."""
    size = pa.MockOutputStream()  # counts: a buffer that grows would be copied several times
    _write(size, batches)
    buffer = pa.allocate_buffer(size.size())
    _write(pa.FixedSizeBufferWriter(buffer), batches)
    return buffer


def rows_of(table: pa.Table, rows: Sequence[int]) -> pa.Table:
    """These rows of a table, in this order, as one chunk. Neighbours in order are not copied."""
    if len(rows) and all(after - before == 1 for before, after in pairwise(rows)):
        return table.slice(rows[0], len(rows)).combine_chunks()
    return table.take(pa.array(rows, pa.int64())).combine_chunks()


def read_ipc(data: Stream) -> list[pa.RecordBatch]:
    """The record batches of an IPC stream. Raises ValueError when it has another schema."""
    buffer = pa.py_buffer(data)
    # Reading a schema takes three times as long as reading a batch of few rows.
    if buffer.size > _HEAD.size and buffer.slice(0, _HEAD.size).equals(_HEAD):
        messages = pa.ipc.MessageReader.open_stream(buffer.slice(_HEAD.size))
        return [pa.ipc.read_record_batch(message, SCHEMA) for message in messages]
    with pa.ipc.open_stream(buffer) as reader:  # of another version of Arrow, or of something else
        if not reader.schema.equals(SCHEMA, check_metadata=True):
            raise ValueError(f"these are not rollouts of this version: the stream has the schema {reader.schema}")
        return list(reader)


def read_table(data: Stream) -> pa.Table:
    """The rows of an IPC stream, as views into it. Raises ValueError when it has another schema."""
    return pa.Table.from_batches(read_ipc(data), schema=SCHEMA)


def _head() -> pa.Buffer:
    """What every stream begins with: its schema. A stream of no batches has only its end after that."""
    stream, end = to_ipc(), bytes.fromhex("ffffffff00000000")
    assert stream.to_pybytes().endswith(end), "a stream ends so (Arrow columnar format, IPC streaming format)"
    return stream.slice(0, stream.size - len(end))


def _write(sink: pa.NativeFile, batches: Sequence[pa.RecordBatch]) -> None:
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)


def to_batch(rollouts: Sequence[Rollout]) -> pa.RecordBatch:
    """One record batch with one row a rollout, in order."""
    columns = []
    for field in SCHEMA:
        values = list(map(attrgetter(field.name), rollouts))
        if field.type in (_TOKENS, _LOGPROBS):
            columns.append(_lists(values, field.type))
        else:
            columns.append(_view_rows(values) if field.type == _VIEWS else pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def from_batch(batch: pa.RecordBatch) -> list[Rollout]:
    """The rollouts of one record batch, in order. Their arrays are read-only views into it."""
    columns: dict[str, Sequence[Any]] = {}
    for field in SCHEMA:
        column = batch[field.name]
        if field.type in (_TOKENS, _LOGPROBS):
            columns[field.name] = _rows(column)
        else:
            columns[field.name] = _views(column) if field.type == _VIEWS else column.to_pylist()
    columns["source"] = [Source(source) for source in columns["source"]]
    return [Rollout(*row) for row in zip(*columns.values(), strict=True)]


def _view_rows(rows: Sequence[Sequence[TokenView]]) -> pa.ListArray:
    views = [view for row in rows for view in row]
    kinds = pa.array([view.kind for view in views], pa.string())
    structs = pa.StructArray.from_arrays([kinds, _lists([view.tokens for view in views], _TOKENS)], fields=list(_VIEW))
    return pa.ListArray.from_arrays(_offsets([len(row) for row in rows]), structs, type=_VIEWS)


def _views(column: pa.ListArray) -> list[tuple[TokenView, ...]]:
    kinds, tokens = column.values.field("kind").to_pylist(), _rows(column.values.field("tokens"))
    known = {kind.value: kind for kind in ViewKind}
    every = [TokenView(known[kind], _present(row)) for kind, row in zip(kinds, tokens, strict=True)]
    offsets = column.offsets.to_pylist()
    return [tuple(every[start:stop]) for start, stop in pairwise(offsets)]


def _lists(rows: Sequence[NDArray | None], kind: pa.ListType) -> pa.ListArray:
    """A list column from one array (or None, for null) a row, without a Python object per token."""
    dtype = kind.value_type.to_pandas_dtype()
    present = [row for row in rows if row is not None]
    values = np.concatenate(present, dtype=dtype, casting="same_kind") if present else np.empty(0, dtype)
    mask = pa.array([row is None for row in rows], pa.bool_()) if len(present) < len(rows) else None
    offsets = _offsets([0 if row is None else len(row) for row in rows])
    return pa.ListArray.from_arrays(offsets, pa.array(values, kind.value_type), type=kind, mask=mask)


def _offsets(lengths: Sequence[int]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), pa.int32())


def _rows(column: pa.ListArray) -> list[NDArray | None]:
    """One array a row (None for null); `offsets` follow a slice of the column, `values` are its parent's."""
    values, ends = column.values.to_numpy(zero_copy_only=False), pairwise(column.offsets.to_pylist())
    if not column.null_count:
        return [values[start:stop] for start, stop in ends]
    nulls = column.is_null().to_pylist()
    return [None if null else values[start:stop] for null, (start, stop) in zip(nulls, ends, strict=True)]


def _present(row: NDArray | None) -> NDArray:
    assert row is not None, "the schema forbids null here"
    return row


_HEAD = _head()

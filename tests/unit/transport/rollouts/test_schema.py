"""Rollouts survive the wire unchanged, whatever they hold."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.rollout_rows import same_rollouts
from unisd_rl.transport.rollouts.schema import SCHEMA, decode, encode, rows_of, to_batch, to_ipc
from unisd_rl.types import Rollout, Source, TokenView, ViewKind

INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
SECONDS = st.floats(0, 4e9)


@st.composite
def arrays(draw, elements, dtype, size=None):
    bounds = {"max_size": 5} if size is None else {"min_size": size, "max_size": size}
    return np.array(draw(st.lists(elements, **bounds)), dtype)


@st.composite
def rollouts(draw):
    completion = draw(arrays(INT32, np.int32))
    per_token = arrays(INT32, np.int32, len(completion))
    logprobs = arrays(st.floats(width=32, allow_nan=False), np.float32, len(completion))
    source = draw(st.sampled_from(Source))
    policy = source is Source.POLICY
    views = st.builds(TokenView, st.sampled_from(ViewKind), arrays(INT32, np.int32))
    return Rollout(
        number=draw(INT64),
        id=draw(TEXT),
        source=source,
        prompt_tokens=draw(arrays(INT32, np.int32)),
        views=tuple(draw(st.lists(views, max_size=3))),
        completion_tokens=completion,
        logprobs=draw(logprobs) if policy else None,
        lineages=draw(per_token) if policy else None,
        versions=draw(per_token) if policy else None,
        finish_reason=draw(TEXT),
        seed=draw(INT64),
        actor=draw(TEXT),
        started_s=draw(SECONDS),
        finished_s=draw(SECONDS),
    )


@given(st.lists(rollouts(), max_size=4))
def test_decoding_an_encoding_gives_back_the_same_rollouts(rows):
    assert same_rollouts(decode(encode(rows)), rows)


@given(st.lists(rollouts(), min_size=1, max_size=5), st.data())
def test_a_slice_or_choice_of_rows_decodes_to_those_rollouts(rows, data):
    start = data.draw(st.integers(0, len(rows) - 1))
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=5))
    assert same_rollouts(decode(to_ipc(to_batch(rows).slice(start))), rows[start:])
    picked = rows_of(pa.Table.from_batches([to_batch(rows)]), chosen)
    assert same_rollouts(decode(to_ipc(*picked.to_batches())), [rows[row] for row in chosen])


def test_a_cut_row_ships_only_itself(policy_row):
    wide = replace(policy_row, prompt_tokens=np.zeros(100_000, np.int32))
    batch = to_batch([wide, policy_row])
    assert len(to_ipc(batch)) > 400_000
    assert len(to_ipc(batch.slice(1))) < 10_000


def test_a_stream_of_another_schema_is_refused():
    other = pa.BufferOutputStream()
    with pa.ipc.new_stream(other, SCHEMA.remove_metadata()) as writer:
        writer.write_table(SCHEMA.empty_table().replace_schema_metadata(None))
    with pytest.raises(ValueError, match="not rollouts of this version"):
        decode(other.getvalue().to_pybytes())


def test_a_stream_whose_schema_another_version_of_arrow_wrote_is_read(policy_row):
    batch, stream = to_batch([policy_row]), pa.BufferOutputStream()
    with pa.ipc.new_stream(
        stream, SCHEMA, options=pa.ipc.IpcWriteOptions(metadata_version=pa.MetadataVersion.V4)
    ) as writer:
        writer.write_batch(batch)
    data = stream.getvalue()
    assert data.slice(0, 1000) != encode([policy_row]).slice(0, 1000)
    assert same_rollouts(decode(data), [policy_row])


@pytest.mark.parametrize("left", [0.2, 0.5, 0.9])
def test_of_a_stream_that_was_cut_short_nothing_is_read(policy_row, left):
    data = encode([policy_row])
    with pytest.raises((ValueError, OSError)):
        decode(data.slice(0, int(left * data.size)))


def test_token_ids_that_do_not_fit_are_refused_not_wrapped(policy_row):
    with pytest.raises(TypeError):
        encode([replace(policy_row, prompt_tokens=np.array([0.5]))])

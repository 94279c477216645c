"""The numbers taken from the columns of a batch are those of its rows, read one by one."""

import numpy as np
import pyarrow as pa
import pytest

from tests.fakes.rollout_rows import rollout
from unisd_rl.transport.rollouts.batch import CommittedRow, committed_rows, consumed_records, value_ranges
from unisd_rl.transport.rollouts.schema import read_table, to_batch, to_ipc
from unisd_rl.types import Source

ROWS = [
    rollout(7, versions=(3, 1, 2)),
    rollout(3, versions=()),
    rollout(4, versions=(5,)),
    rollout(9, versions=(4, 4, 4), source=Source.GOLD),
    rollout(1, versions=(0, 8)),
    rollout(2, versions=(6, 6)),
]


def expected(row):
    versions = [] if row.versions is None else row.versions.tolist()
    return row.number, len(row.completion_tokens), min(versions, default=None), max(versions, default=None)


@pytest.mark.parametrize(
    "kept", [slice(None), slice(0, 3), slice(2, 3), slice(3, 4), slice(4, 6), slice(1, 5), slice(0, 0)]
)
@pytest.mark.parametrize("batches", [1, 2, 6])
def test_lengths_and_oldest_and_newest_versions_are_those_of_each_row(kept, batches):
    parts = [ROWS[start::1][: len(ROWS) // batches] for start in range(0, len(ROWS), len(ROWS) // batches)]
    table = pa.concat_tables([read_table(to_ipc(to_batch(part))) for part in parts])
    rows = [expected(row) for row in ROWS[kept]]
    found = table.slice(kept.start or 0, len(rows))
    assert committed_rows(found) == [CommittedRow(number, tokens, oldest) for number, tokens, oldest, _ in rows]
    records = consumed_records(9, 0, found)
    assert [(record.prompt, record.tokens, record.oldest, record.newest) for record in records] == rows
    assert [record.lineage for record in records] == [
        None if row.lineages is None or not len(row.lineages) else int(np.max(row.lineages)) for row in ROWS[kept]
    ]


def test_what_lies_beneath_a_list_that_is_null_is_no_value():
    column = pa.ListArray.from_arrays(
        [0, 2, 4, 5], pa.array([9, 1, 7, 3, 5], pa.int32()), mask=pa.array([False, True, False])
    )
    assert value_ranges(pa.chunked_array([column])) == [(1, 9), None, (5, 5)]

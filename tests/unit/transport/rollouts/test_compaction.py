"""Compacting changes where rollouts lie and nothing else, and may stop at any moment."""

import asyncio
import shutil
from uuid import uuid4

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.fakes.rollout_rows import rollout, same_rollouts
from tests.fakes.stopping import stops_after
from unisd_rl.transport.rollouts import compaction
from unisd_rl.transport.rollouts.ledger import Compacted, Ledger
from unisd_rl.transport.rollouts.schema import SCHEMA, decode, encode, to_ipc
from unisd_rl.types import Source

SEGMENTS = [[5, 3, 11], [0, 4], [1, 2, 10]]
NUMBERS = [0, 1, 2, 3, 4, 5, 10, 11]


def row(number, actor="a"):
    return rollout(number, (0,) * (number % 3), actor, source=Source.GOLD if number % 4 == 0 else Source.POLICY)


def rows(numbers):
    return [row(number) for number in numbers]


def filled(place):
    append(place, *SEGMENTS)
    return place


def append(place, *segments):
    """Each to a segment of its own."""
    return [asyncio.run(Ledger(place, fsync=False).append(encode(rows(numbers)))) for numbers in segments]


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(params=["folder", "memory"])
def place(request, tmp_path):
    return filled(tmp_path / "rollouts" if request.param == "folder" else f"memory://{uuid4()}/rollouts")


def test_a_compacted_ledger_reads_and_goes_on_as_before(place):
    before = Ledger(place, fsync=False)
    done = Ledger(place, fsync=True).compact()
    assert (done.rows, done.segments) == (8, 3)
    after = Ledger(place, fsync=False)
    assert (list(after.numbers), after.tokens, len(after)) == (NUMBERS, before.tokens, 8)
    assert ([file.ranges.tolist() for file in after.compacted], after.entries) == ([[[0, 6], [10, 12]]], ())
    assert same_rollouts(after.rollouts([10, 0, 5, 5]), rows([10, 0, 5, 5]))
    assert append(place, [4, 6, 11], [7]) == [(6,), (7,)]
    again = Ledger(place, fsync=False)
    assert same_rollouts(again.rollouts([7, 11, 6, 0]), rows([7, 11, 6, 0]))
    assert again.tokens == before.tokens + 0 + 1  # 6 % 3 and 7 % 3


def test_a_second_compaction_leaves_the_first_as_it_is_and_one_without_segments_does_nothing(place):
    Ledger(place, fsync=True).compact()
    first = Ledger(place, fsync=False).compacted[0].checksum
    assert Ledger(place, fsync=True).compact() == Compacted(0, 0, 0, 0)
    append(place, [7, 6], [8])
    assert Ledger(place, fsync=True).compact().rows == 3
    ledger = Ledger(place, fsync=False)
    assert [file.ranges.tolist() for file in ledger.compacted] == [[[0, 6], [10, 12]], [[6, 9]]]
    assert (ledger.compacted[0].checksum, ledger.entries) == (first, ())
    assert same_rollouts(ledger.rollouts(list(ledger.numbers)), rows(sorted([*NUMBERS, 6, 7, 8])))


def test_the_parquet_file_has_the_same_columns_in_prompt_order_in_row_groups_and_zstd(tmp_path, monkeypatch):
    monkeypatch.setattr(compaction, "_ROW_GROUP_BYTES", 3 * sum(map(size_of, SEGMENTS)) // 8)
    Ledger(filled(tmp_path), fsync=True).compact()
    assert files(tmp_path) == ["index/compacted-00000001.json", "segments/compacted-00000001.parquet"]
    path = tmp_path / "segments" / "compacted-00000001.parquet"
    table = pq.read_table(path)
    assert table.schema.names == SCHEMA.names
    table = table.cast(SCHEMA)  # Parquet calls the inside of a list `element`
    assert same_rollouts(decode(to_ipc(*table.combine_chunks().to_batches())), rows(NUMBERS))
    layout = pq.ParquetFile(path).metadata
    assert [layout.row_group(group).num_rows for group in range(layout.num_row_groups)] == [3, 3, 2]
    assert {layout.row_group(0).column(column).compression for column in range(layout.num_columns)} == {"ZSTD"}
    ledger = Ledger(tmp_path, fsync=False)
    for numbers in ([11], [0], [10, 3, 2, 11], NUMBERS[::-1]):
        assert same_rollouts(ledger.rollouts(numbers), rows(numbers))


def size_of(numbers):
    return len(encode(rows(numbers)))


def test_a_row_with_a_nan_is_compacted_bit_for_bit(tmp_path):
    odd = row(1)
    odd.logprobs[:] = np.array([0x7FC00123], np.uint32).view(np.float32)
    asyncio.run(Ledger(tmp_path, fsync=False).append(encode([odd])))
    Ledger(tmp_path, fsync=True).compact()
    found = Ledger(tmp_path, fsync=False).rollouts([1])[0].logprobs
    assert found.view(np.uint32).tolist() == [0x7FC00123]


def test_stopped_after_any_file_operation_it_loses_nothing_and_the_next_one_finishes(tmp_path):
    original = filled(tmp_path / "original")
    (original / "segments" / "00000009.arrows").write_bytes(b"without an entry")
    stopped, operations = True, 0
    while stopped:
        folder = tmp_path / f"{operations}"
        shutil.copytree(original, folder)
        with stops_after(folder, operations) as stop:
            try:
                Ledger(folder, fsync=True).compact()
            except OSError:
                assert stop.stopped
        stopped = stop.stopped
        tokens = Ledger(original, fsync=False).tokens
        assert all_there(folder, NUMBERS, tokens)
        if operations % 2:
            assert append(folder, [6, 5]) == [(6,)]
            numbers = sorted([*NUMBERS, 6])
        else:
            numbers = NUMBERS
        Ledger(folder, fsync=True).compact()
        assert all_there(folder, numbers, tokens)
        assert not [name for name in files(folder) if "compacted" not in name]
        operations += 1
    # Parquet file and entry, three segments with entries, the leftover, the last sync; then one run to the end
    assert operations == 2 + 2 + 2 * 3 + 1 + 1 + 1


def all_there(folder, numbers, tokens):
    ledger = Ledger(folder, fsync=False)
    whole = same_rollouts(ledger.rollouts(numbers), rows(numbers))
    return whole and (list(ledger.numbers), ledger.tokens) == (numbers, tokens)


def test_what_does_not_read_back_is_told_and_no_segment_is_removed(tmp_path, monkeypatch):
    filled(tmp_path)
    before = files(tmp_path)
    true_load = compaction.load

    def one_bit_off(place, entry, wanted):
        table, lies = true_load(place, entry, wanted)
        seeds = table["seed"].to_numpy() ^ (np.arange(len(table)) == 7)
        return table.set_column(table.schema.get_field_index("seed"), SCHEMA.field("seed"), [seeds]), lies

    monkeypatch.setattr(compaction, "load", one_bit_off)
    with pytest.raises(OSError, match="does not read back"):
        Ledger(tmp_path, fsync=True).compact()
    assert files(tmp_path) == before


def test_a_damaged_page_of_the_parquet_file_is_noticed(tmp_path):
    Ledger(filled(tmp_path), fsync=True).compact()
    path = tmp_path / "segments" / "compacted-00000001.parquet"
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(OSError):
        Ledger(tmp_path, fsync=False).rollouts([0])

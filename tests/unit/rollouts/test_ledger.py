"""What is stored stays stored, once, and comes back in any order asked for."""

import asyncio

import pytest
from rollout_rows import rollout, same_rollouts

from unisd_rl.transport.rollouts.ledger import Ledger
from unisd_rl.transport.rollouts.schema import encode


def append(ledger, *arguments, **options):
    return asyncio.run(ledger.append(*arguments, **options))


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path, fsync=True)


def test_rows_come_back_in_the_order_asked_for_across_segments(ledger):
    append(ledger, encode([rollout(4), rollout(1)]))
    append(ledger, encode([rollout(0), rollout(9)]))
    assert same_rollouts(ledger.rollouts([9, 1, 0, 4]), [rollout(9), rollout(1), rollout(0), rollout(4)])
    assert ledger.rollouts([]) == []


def test_a_number_is_stored_once_and_the_first_row_stays(ledger):
    assert append(ledger, encode([rollout(1, actor="first")])) == ((1,), 0)
    doubles = encode([rollout(2), rollout(1, actor="late"), rollout(2, actor="late")])
    assert append(ledger, doubles) == ((2,), 2)
    assert append(ledger, encode([rollout(1, actor="late")])) == ((), 1)
    assert [row.actor for row in ledger.rollouts([1, 2])] == ["first", "a"]


def test_barred_numbers_are_refused(ledger):
    assert append(ledger, encode([rollout(1), rollout(2)]), barred={1}) == ((2,), 1)
    assert 1 not in ledger


def test_a_ledger_opened_again_is_equal(ledger, tmp_path):
    append(ledger, encode([rollout(1), rollout(0)]))
    append(ledger, encode([rollout(2, versions=(0, 1, 1))]))
    again = Ledger(tmp_path, fsync=False)
    assert again.entries == ledger.entries
    assert (len(again), again.tokens) == (3, 1 + 1 + 3)
    assert same_rollouts(again.rollouts([0, 1, 2]), ledger.rollouts([0, 1, 2]))
    assert append(again, encode([rollout(2), rollout(3)])) == ((3,), 1)


def test_a_segment_cut_short_is_ignored_and_its_number_not_used_again(ledger, tmp_path):
    whole = encode([rollout(1)])
    append(ledger, whole)
    (tmp_path / "segments" / "00000002.arrows.part").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "segments" / "00000003.arrows").write_bytes(whole[:100])  # no index entry was written
    (tmp_path / "index" / "00000003.json.part").write_text('{"segm')
    again = Ledger(tmp_path, fsync=False)
    assert again.entries == ledger.entries
    assert append(again, encode([rollout(2)])) == ((2,), 0)
    assert [entry.segment for entry in again.entries] == [1, 4]
    assert same_rollouts(Ledger(tmp_path, fsync=False).rollouts([1, 2]), [rollout(1), rollout(2)])


def test_a_damaged_segment_is_noticed(ledger, tmp_path):
    append(ledger, encode([rollout(1)]))
    path = tmp_path / "segments" / "00000001.arrows"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(OSError, match="damaged"):
        ledger.rollouts([1])

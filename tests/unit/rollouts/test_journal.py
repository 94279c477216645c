"""Journal lines survive a crash in mid-write."""

from unisd_rl.transport.rollouts.journal import Journal


def test_records_are_restored_in_order_and_a_line_cut_short_is_taken_off(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, fsync=True)
    journal.append([{"a": 1}, {"a": 2}])
    with path.open("a") as file:
        file.write('{"a": ')
    again = Journal(path, fsync=False)
    again.append([{"a": 3}])
    assert Journal(path, fsync=False).restored == ({"a": 1}, {"a": 2}, {"a": 3})
    assert journal.restored == ()

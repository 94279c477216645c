"""Journal lines survive a crash in mid-write."""

import pytest

from tests.fakes.full_disk import files_of_at_most
from unisd_rl.storage.jsonl import Journal


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


def test_records_that_do_not_fit_on_the_disk_leave_nothing_of_them(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, fsync=True)
    journal.append([{"a": 1}])
    with files_of_at_most(4096), pytest.raises(OSError):
        journal.append({"a": number} for number in range(2000))
    journal.append([{"a": 2}])
    assert Journal(path, fsync=False).restored == ({"a": 1}, {"a": 2})

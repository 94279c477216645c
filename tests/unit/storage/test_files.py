"""Files are complete or absent, and a folder has one owner."""

import os
import subprocess
import sys

import pytest

from tests.fakes.full_disk import files_of_at_most
from unisd_rl.storage.files import FolderLock, is_locked, replace_directory, write_text_atomic


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_text_atomic(path, "old")
    with files_of_at_most(4096), pytest.raises(OSError):
        write_text_atomic(path, "new " * 2000)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_directory_takes_the_place_of_the_one_before(tmp_path):
    for name in ("new", "place"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    replace_directory(tmp_path / "new", tmp_path / "place")
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["place", "place/new"]


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path):
    hold = (
        "import sys; from pathlib import Path; from unisd_rl.storage.files import FolderLock\n"
        "lock = FolderLock(Path(sys.argv[1])); print(lock.acquire(), flush=True); sys.stdin.read()"
    )
    assert not is_locked(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout.readline() == "True\n"
        assert is_locked(tmp_path)
        assert not FolderLock(tmp_path).acquire()
        owner.kill()
        owner.wait(timeout=30)
        assert not is_locked(tmp_path)
        assert FolderLock(tmp_path).acquire(timeout_s=10.0)

"""What a process prints goes to its file, and a disk that is full does not end it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PRINTS = """
import os, sys
from pathlib import Path
from unisd_rl.cluster.logs import redirect_output

redirect_output(Path(sys.argv[1]))
print("said by Python", flush=True)
print("said as an error", file=sys.stderr)
os.system("echo said by a child")
"""


def printed(path):
    return subprocess.run([sys.executable, "-c", PRINTS, path], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_standard_output_and_error_go_to_the_file_those_of_children_too(tmp_path):
    done = printed(tmp_path / "logs" / "one.log")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "logs" / "one.log").read_text().splitlines() == [
        "said by Python",
        "said as an error",
        "said by a child",
    ]


def test_words_that_a_full_disk_does_not_take_are_lost_and_nothing_else(tmp_path):
    (tmp_path / "one.log").symlink_to("/dev/full")
    assert printed(tmp_path / "one.log").returncode == 0

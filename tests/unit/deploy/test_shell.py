"""The shell scripts of deploy/: checked by shellcheck."""

import subprocess

import pytest

from tests.fakes.deployment import DEPLOY, checker

SCRIPTS = sorted(DEPLOY.glob("*.sh"))


def test_there_are_scripts_and_they_can_be_started():
    assert {script.name for script in SCRIPTS} == {"install_podman.sh", "node.sh", "slurm.sh"}
    assert all(script.stat().st_mode & 0o111 for script in SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    done = subprocess.run([checker("shellcheck"), script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_a_batch_script_started_by_hand_is_refused():
    environment = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run([DEPLOY / "slurm.sh"], env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert "submit this script with sbatch" in done.stderr

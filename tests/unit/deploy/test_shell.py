"""The shell scripts of deploy/: checked by shellcheck; wrong words refused."""

import subprocess

import pytest

from tests.fakes.deployment import DEPLOY, ROOT, checker

SCRIPTS = sorted(DEPLOY.glob("*.sh"))


def test_there_are_scripts_and_they_can_be_started():
    assert {script.name for script in SCRIPTS} == {"node.sh", "slurm.sh"}
    assert all(script.stat().st_mode & 0o111 for script in SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    done = subprocess.run([checker("shellcheck"), script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_an_unknown_role_is_refused_in_one_sentence():
    done = subprocess.run([DEPLOY / "node.sh", "boss"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert done.stderr == "deploy/node.sh: there is no role boss; say head, learner, rollout or node\n"


@pytest.mark.parametrize(("role", "offered"), [("head", ["--num-cpus=0", "--num-gpus=0"]), ("learner", [])])
def test_a_head_offers_nothing_that_computes_and_other_nodes_what_ray_finds(tmp_path, role, offered):
    ray = tmp_path / "ray"
    ray.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    ray.chmod(0o755)
    done = subprocess.run([DEPLOY / "node.sh", role], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True,
                          text=True, timeout=30)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [word for word in done.stdout.split() if word.startswith(("--num-cpus", "--num-gpus"))] == offered


def test_a_batch_script_started_by_hand_is_refused():
    environment = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run([DEPLOY / "slurm.sh"], env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert "submit this script with sbatch" in done.stderr

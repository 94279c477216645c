"""deploy/slurm.sh as a batch script, with stand-ins for Slurm's commands and Ray's: who starts where, how it ends."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.deployment import DEPLOY
from tests.fakes.local_nodes import end, wait_until

# A node's process runs until it is ended; another node knows the first one by an address of the cluster's network.
SRUN = """
while [[ $1 == --* ]]; do [[ $1 != --nodelist=* ]] || node=${1#*=}; shift; done
case $* in
    "getent ahostsv4 n1") [ "$node" = n1 ] && echo 127.0.1.1 STREAM n1 || echo 10.0.0.7 STREAM n1 ;;
    *) echo "$node: $* UNISD_IP=${UNISD_IP:-}" >>started; exec sleep 60 ;;
esac
"""
# `ray job submit` follows the job until it is stopped, or the test says how it ends.
RAY = """
echo "ray $* no_proxy=$no_proxy" >>said
case "$1 $2" in
    "job submit") until [ -s ended ]; do sleep 0.05; done; exit "$(cat ended)" ;;  # -s: what is there has its number
    "job stop") echo 130 >ended ;;
esac
"""


@pytest.fixture
def site(tmp_path) -> Path:
    """The folder that a job is submitted from: the deployment files, and an environment of stand-ins."""
    (tmp_path / "deploy").symlink_to(DEPLOY)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    scontrol = 'printf "%s\\n" $SLURM_JOB_NODELIST'
    for name, body in {"scontrol": scontrol, "srun": SRUN, "ray": RAY, "python3": "exit 0"}.items():
        stand_in = tmp_path / ".venv/bin" / name
        stand_in.write_text(f"#!/usr/bin/env bash\n{body}\n")  # python3: how node.sh asks whether the head takes jobs
        stand_in.chmod(0o755)
    return tmp_path


@pytest.fixture
def batch(site) -> Iterator[subprocess.Popen[str]]:
    """The script on three nodes, when the job has been submitted."""
    process = submitted(site, "n1 n2 n3")
    wait_until(lambda: (site / "said").exists() and len(started(site)) == 4, "the job is submitted")
    yield process
    (site / "ended").write_text("0")
    end(process)


def submitted(site: Path, nodes: str, *arguments: str) -> subprocess.Popen[str]:
    slurm = {"SLURM_SUBMIT_DIR": f"{site}", "SLURM_JOB_NODELIST": nodes, "SLURM_JOB_ID": "7"}
    environment = {"PATH": os.environ["PATH"], "HOME": f"{site}", "NO_PROXY": ".inside", **slurm}
    return subprocess.Popen(
        [DEPLOY / "slurm.sh", *arguments], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def started(site: Path) -> list[str]:
    file = site / "started"
    return sorted(file.read_text().splitlines()) if file.exists() else []


def test_head_and_learner_share_the_first_node_and_the_head_is_told_the_address_by_which_another_knows_it(site, batch):
    assert started(site) == [
        "n1: deploy/node.sh head --block UNISD_IP=10.0.0.7",
        "n1: deploy/node.sh learner --block UNISD_IP=",
        "n2: deploy/node.sh rollout --block UNISD_IP=",
        "n3: deploy/node.sh rollout --block UNISD_IP=",
    ]


def test_one_node_has_everything(site):
    process = submitted(site, "n1", "opsd", "--run.name", "two words")
    wait_until(lambda: len(started(site)) == 3, "all nodes are started")
    (site / "ended").write_text("0")
    assert process.wait(timeout=60) == 0
    assert [line.split()[:3:2] for line in started(site)] == [["n1:", "head"], ["n1:", "learner"], ["n1:", "rollout"]]
    (said,) = (site / "said").read_text().splitlines()
    run = "python -m unisd_rl.run opsd --run.name two words"
    assert said == f"ray job submit --submission-id slurm-7 -- {run} no_proxy=.inside,127.0.0.1"


@pytest.mark.parametrize("status", [0, 3])
def test_the_batch_job_ends_as_the_run_does_and_its_nodes_with_it(site, batch, status):
    assert processes_in(site).count("sleep 60 ") == 4
    (site / "ended").write_text(f"{status}")
    assert batch.wait(timeout=60) == status
    wait_until(lambda: processes_in(site) == [], "no node is left")


def test_the_signal_before_the_time_is_up_stops_the_run_and_waits_for_its_end(site, batch):
    batch.send_signal(signal.SIGTERM)
    assert batch.wait(timeout=60) == 130
    assert (site / "said").read_text().splitlines()[1].startswith("ray job stop slurm-7 ")


def processes_in(folder: Path) -> list[str]:
    """Commands of the processes that run in this folder."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdecimal() and (process / "cwd").readlink() == folder:
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found

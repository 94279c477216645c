"""Every command of the deployment files, read out of them, against a real Ray cluster on this machine.

Token authentication is on everywhere. The default tier has the short form: head, learner node and one rollout node as
the services of docker-compose.yml start them, and a job of two steps, submitted as documented.
"""

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.fakes.deployment import Command, service_command
from tests.fakes.finished import (
    FinishedRun,
    assert_accuracy_is_what_its_items_say,
    assert_every_prompt_exactly_once_and_in_order,
    assert_staleness_within,
)
from tests.fakes.local_nodes import JOB_TIMEOUT_S, LocalNodes

STEPS, BATCH = 2, 8
TINY = f"--run.steps {STEPS} --learner.batch_size {BATCH} --task.eval_examples 8 --rollout.engine.type transformers"


@pytest.fixture(scope="module")
def cluster(ray_start_turn) -> Iterator[LocalNodes]:
    """Head, learner node and one rollout node, as Compose starts them."""
    with contextlib.closing(LocalNodes()) as nodes:
        for service in ("head", "learner", "rollout"):
            nodes.start_service(service)
        yield nodes


def finished(job: subprocess.Popen[str]) -> str:
    output = job.communicate(timeout=JOB_TIMEOUT_S)[0]
    assert job.returncode == 0, output[-4000:]
    return output


def nodes_of(cluster: LocalNodes, kind: str) -> set[str]:
    """Identifiers of the nodes that offer this resource."""
    listed = cluster.run("ray", "list", "nodes", "--format", "json", "--detail").stdout
    return {node["node_id"] for node in json.loads(listed) if kind in node["resources_total"]}


def homes(cluster: LocalNodes, class_name: str) -> set[str]:
    """Identifiers of the nodes on which actors of this class were."""
    listed = cluster.run("ray", "list", "actors", "--format", "json", "--detail", "--limit", "1000").stdout
    return {actor["node_id"] for actor in json.loads(listed) if actor["class_name"] == class_name}


def test_the_documented_job_runs_to_its_end_on_the_nodes_of_its_kinds(cluster, tmp_path):
    output = finished(cluster.submit(f"unisd_star cluster --run.dir {tmp_path} {TINY}"))
    run = FinishedRun(tmp_path / "arithmetic", output)
    assert run.summary["status"] == "completed"
    assert_every_prompt_exactly_once_and_in_order(run, STEPS, BATCH)
    assert_staleness_within(run, bound=1)
    assert_accuracy_is_what_its_items_say(run)
    assert homes(cluster, "RolloutActor") == nodes_of(cluster, "rollout")
    assert homes(cluster, "RankProcess") == nodes_of(cluster, "learner")


def test_a_dry_run_as_a_job_says_who_has_a_place_and_who_has_none(cluster, tmp_path):
    output = finished(cluster.submit(f"unisd_star cluster --run.dir {tmp_path} --dry-run --rollout.actors 3"))
    assert "the cluster (nodes: 3) cannot run every process:" in output
    (rollout,) = re.findall(r"  rollout actor: on \S+/(\w+) \(1\); no room for 2 of 3", output)
    (learner,) = re.findall(r"  learner rank: on \S+/(\w+) \(1\)", output)
    assert {node[:6] for node in nodes_of(cluster, "rollout")} == {rollout}
    assert {node[:6] for node in nodes_of(cluster, "learner")} == {learner}
    assert not (tmp_path / "arithmetic").exists()


NO_TOKEN = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": ""}
WRONG_TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "", "RAY_AUTH_TOKEN": "0" * 64}


@pytest.mark.parametrize("stranger", [NO_TOKEN, WRONG_TOKEN], ids=["none", "another"])
def test_a_submission_without_the_token_is_refused(cluster, stranger, tmp_path):
    command = service_command("job", {"UNISD_JOB": f"unisd_star cluster --run.dir {tmp_path} --dry-run"})
    done = cluster.call(Command(command.argv, cluster.merged(command.environment) | stranger))
    assert done.returncode != 0
    assert "AuthenticationError" in done.stdout
    assert "submitted successfully" not in done.stdout


def test_a_node_without_the_token_is_refused(cluster):
    before = nodes_of(cluster, "rollout")
    done = cluster.run(*service_command("rollout", {}).argv, **WRONG_TOKEN, UNISD_AGENT_PORT="0")
    assert done.returncode != 0
    assert "InvalidAuthToken" in done.stdout
    assert nodes_of(cluster, "rollout") == before


def test_a_driver_without_the_token_is_refused_in_one_sentence(cluster, tmp_path):
    stranger = NO_TOKEN | {"RAY_ADDRESS": f"127.0.0.1:{cluster.port}"}
    done = cluster.run("python", "-m", "unisd_rl.run", "--run.dir", str(tmp_path), "--dry-run", **stranger)
    assert done.returncode == 2, done.stdout[-2000:]
    assert f"RAY_ADDRESS = 127.0.0.1:{cluster.port}" in done.stdout

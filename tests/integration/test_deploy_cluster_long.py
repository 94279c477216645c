"""The rest of the deployment files' commands, and a whole life of a run, on real clusters of this machine.

Scaled from two rollout nodes to one and back, stopped, resumed and finished; the steps of deploy/README.md word for
word; KubeRay's groups; the Slurm script; the launcher's commands with an autoscaler that starts nodes here.
"""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from ray.autoscaler._private.util import fillout_defaults

from tests.fakes.deployment import ROOT, Command, console_blocks, kuberay_start, launcher, manifest
from tests.fakes.finished import FinishedRun, lines
from tests.fakes.local_nodes import JOB_TIMEOUT_S, LocalNodes, end, free_port, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.usefixtures("ray_start_turn")]

BATCH = 8
SMALL = f"--learner.batch_size {BATCH} --task.eval_examples 8 --rollout.engine.type transformers"
TINY = f"{SMALL} --run.steps 2"
CACHE = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))


@pytest.fixture
def cluster() -> Iterator[LocalNodes]:
    with contextlib.closing(LocalNodes()) as nodes:
        yield nodes


@pytest.fixture
def home(tmp_path) -> Path:
    """A home folder in which nothing is but a checkout."""
    path = tmp_path / "home"
    path.mkdir()
    (path / "unisd-rl").symlink_to(ROOT)
    return path


def finished(job: subprocess.Popen[str], timeout_s: float = JOB_TIMEOUT_S) -> str:
    output = job.communicate(timeout=timeout_s)[0]
    assert job.returncode == 0, output[-4000:]
    return output


def steps_of(run: Path) -> int:
    """Steps the run has taken so far."""
    file = run / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def surviving(consumed: list[dict]) -> list[int]:
    """Prompt numbers of the steps that count: of each step the last lineage that took it."""
    last = {row["step"]: row.get("learner_lineage", 0) for row in consumed}
    return [row["prompt"] for row in consumed if row.get("learner_lineage", 0) == last[row["step"]]]


def test_scaled_in_mid_run_stopped_resumed_and_finished(cluster, tmp_path):
    steps, run = 500, tmp_path / "arithmetic"  # about 0.2 s each: enough for all that happens in mid-run
    rollouts = [cluster.start_service(name) for name in ("head", "learner", "rollout", "rollout")][2:]
    lasting = f"--run.steps {steps} --run.checkpoint_every 50 --rollout.actors 2"
    job = cluster.submit(f"unisd_star cluster --run.dir {tmp_path} {SMALL} {lasting}")

    def scaled(actors: int) -> None:
        before = steps_of(run)
        done = cluster.run("python", "-m", "unisd_rl.scale", str(run), "--actors", str(actors))
        assert done.returncode == 0, done.stdout
        wait_until(lambda: steps_of(run) > before + 2, f"the run goes on with {actors} actors", timeout_s=300)

    wait_until(lambda: steps_of(run) > 2, "the run trains", timeout_s=300)
    scaled(1)
    cluster.stop(rollouts[1])
    before = steps_of(run)
    wait_until(lambda: steps_of(run) > before + 2, "the run goes on with one rollout node", timeout_s=300)
    cluster.start_service("rollout")
    scaled(2)

    stop(cluster)
    finished(job)
    stopped_at = steps_of(run)
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    assert stopped_at < steps

    output = finished(cluster.submit(f"--resume {run}"), 2 * JOB_TIMEOUT_S)  # most of the steps are left
    ended = FinishedRun(run, output)
    assert ended.summary["status"] == "completed"
    assert ended.summary["steps"] == steps
    assert surviving(ended.consumed) == list(range(steps * BATCH))
    parts = {event["component"].partition("-")[0] for event in ended.events}
    assert parts <= {"rollout", "driver"}, "what a rollout node held, and the resume: no store, no queue, no learner"


def stop(cluster: LocalNodes) -> None:
    """`ray job stop`, as deploy/README.md says, of the one job that runs."""
    (submission,) = set(re.findall(r"raysubmit_\w+", cluster.run("ray", "job", "list").stdout))
    done = cluster.run("ray", "job", "stop", submission)
    assert done.returncode == 0, done.stdout
    assert "was stopped" in done.stdout


def test_the_groups_of_the_kubernetes_manifests_run_their_job(cluster, tmp_path):
    spec, job = manifest("cluster/raycluster.yaml")["spec"], manifest("job/rayjob.yaml")["spec"]
    shared = f"--temp-dir={cluster.folder} --min-worker-port=0 --max-worker-port=0"  # nodes share this machine
    for group in ("head", "learner", "rollout"):
        agent = free_port()
        own = f"--port={cluster.port} --dashboard-port={cluster.dashboard} --dashboard-host=127.0.0.1"
        more = f"--dashboard-agent-listen-port={agent} {own if group == 'head' else '--num-cpus=1'}"
        shell = f"{kuberay_start(spec, group, f'127.0.0.1:{cluster.port}')} {shared} {more}"
        node = cluster.start(Command(("bash", "-c", f"exec {shell}"), {"RAY_AUTH_MODE": "token"}))
        healthy = Command(("deploy/node.sh", "healthy"), {**node.environment, "UNISD_AGENT_PORT": str(agent)})
        wait_until(lambda check=healthy: cluster.call(check).returncode == 0, f"{group} is healthy", node)
    submit = ("ray", "job", "submit", "--", *shlex.split(job["entrypoint"]), "--run.dir", str(tmp_path), *TINY.split())
    output = finished(cluster.popen(submit, {"RAY_AUTH_MODE": "token"}))
    assert FinishedRun(tmp_path / "arithmetic", output).summary["status"] == "completed"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts deploy/slurm.sh as a batch script of three nodes, all of them this machine."""
    started, places = [], []
    commands = tmp_path_factory.mktemp("bin")
    # Slurm's two commands, as far as the script uses them: names of nodes, and a command run on one.
    _write(commands / "scontrol", 'printf "127.0.0.1\\n%.0s" 1 2 3')
    _write(commands / "srun", 'while [[ $1 == --* ]]; do shift; done; exec "$@"')

    def batch(*arguments: str) -> subprocess.Popen[str]:
        cluster = LocalNodes()
        environment = cluster.merged({}) | {
            "SLURM_SUBMIT_DIR": str(ROOT),
            "SLURM_JOB_NODELIST": "machine[1-3]",
            "SLURM_JOB_ID": str(len(started)),
            "UNISD_AGENT_PORT": str(free_port()),
            "UNISD_CPUS": "1",
        }
        environment["PATH"] = f"{commands}{os.pathsep}{environment['PATH']}"
        log = (cluster.folder / "batch.log").open("w")
        script = ROOT / "deploy/slurm.sh"
        started.append(subprocess.Popen([script, *arguments], env=environment, stdout=log, stderr=log, text=True))
        places.append(cluster.folder)
        return started[-1]

    yield batch
    for process, place in zip(started, places, strict=True):
        end(process)
        end_all_below(place)


def _write(path: Path, body: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


def end_all_below(folder: Path) -> None:
    """End the Ray processes that have this folder, which only this test knows, in their command."""
    mine = [
        one
        for one in psutil.process_iter(["cmdline"])
        if any(str(folder) in word for word in one.info["cmdline"] or ())
    ]
    for process in mine:
        process.terminate()
    for process in psutil.wait_procs(mine, timeout=20)[1]:
        process.kill()


@pytest.fixture(scope="module")
def stopped_batch(slurm, tmp_path_factory) -> Path:
    """Folder of a run that Slurm's signal stopped before the time was up."""
    folder = tmp_path_factory.mktemp("slurm")
    run = folder / "arithmetic"
    batch = slurm("unisd_star", "cluster", "--run.dir", str(folder), *SMALL.split(), "--run.steps", "40",
                  "--rollout.actors", "2")  # fmt: skip
    wait_until(lambda: steps_of(run) > 2 or batch.poll() is not None, "the run trains", timeout_s=400)
    assert batch.poll() is None
    batch.send_signal(signal.SIGTERM)
    batch.wait(timeout=JOB_TIMEOUT_S)
    return run


def test_a_slurm_job_that_runs_out_of_time_leaves_a_checkpoint(stopped_batch):
    summary = json.loads((stopped_batch / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert 2 < summary["steps"] < 40
    assert (stopped_batch / "checkpoints" / f"step-{summary['steps']}" / "config.json").is_file()


def test_a_slurm_job_goes_on_with_a_stopped_run(slurm, stopped_batch):
    assert slurm("--resume", str(stopped_batch)).wait(timeout=JOB_TIMEOUT_S) == 0
    assert json.loads((stopped_batch / "summary.json").read_text())["status"] == "completed"
    assert surviving(lines(stopped_batch / "consumed.jsonl")) == list(range(40 * BATCH))


def nodes_of(cluster):
    listed = cluster.run("ray", "list", "nodes", "--format", "json", "--detail")
    return json.loads(listed.stdout) if listed.returncode == 0 else []


def test_the_launchers_commands_start_a_cluster_whose_rollout_nodes_come_when_they_are_asked_for(
    cluster, home, tmp_path
):
    """The cloud is Ray's stand-in for one: its nodes are processes of this machine. All else is the file's."""
    config = fillout_defaults(launcher())  # as `ray up` does before it starts the head, as what follows:
    config["file_mounts"] = {place: place for place in config["file_mounts"]}
    (home / ".ray").mkdir()
    (home / ".ray/auth_token").write_text(cluster.token.read_text())
    config["provider"] = {
        "type": "fake_multinode",
        "gcs_address": f"127.0.0.1:{cluster.port}",
        "use_node_id_as_ip": True,  # they all have this machine's address
        "disable_node_updaters": True,  # there is nothing to log in to
    }
    kinds = config["available_node_types"]
    kinds["ray.head.default"] = kinds.pop(config["head_node_type"])
    config["head_node_type"] = "ray.head.default"
    for kind in kinds.values():
        kind["node_config"] = {}
        kind["resources"] = {**kind["resources"], "object_store_memory": 100_000_000}
    (home / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(config))
    environment = {"HOME": str(home), "XDG_CACHE_HOME": CACHE, "RAY_HEAD_IP": "127.0.0.1"}

    def started(commands: list[str], **more: str) -> None:
        stopping, start = commands
        assert stopping.endswith("ray stop"), "which would end every Ray process of this machine, and is not run here"
        agent = str(free_port())
        node = cluster.start(
            Command(("bash", "-c", f"{start} --block"), {}), UNISD_AGENT_PORT=agent, **environment, **more
        )
        check = Command(("deploy/node.sh", "healthy"), node.environment)
        wait_until(lambda: cluster.call(check).returncode == 0, "the node is healthy", node)

    try:
        started(config["head_start_ray_commands"], RAY_FAKE_CLUSTER="1", AUTOSCALER_UPDATE_INTERVAL_S="1")
        # Two nodes that start at the same time in one folder may take the same name for their sockets.
        at_first = 1 + sum(kind.get("min_workers", 0) for kind in kinds.values())
        wait_until(lambda: len(nodes_of(cluster)) == at_first, f"{at_first} nodes are there")
        started(config["worker_start_ray_commands"], RAY_OVERRIDE_RESOURCES='{"CPU": 1, "extra": 1}')
        output = finished(cluster.submit(f"unisd_star cluster --run.dir {tmp_path} {TINY} --rollout.actors 2"))
        assert FinishedRun(tmp_path / "arithmetic", output).summary["status"] == "completed"
        offered = [node["resources_total"] for node in nodes_of(cluster)]
        assert sum("rollout" in resources for resources in offered) == 2, "one at first, one when it was asked for"
        assert sum("learner" in resources for resources in offered) == 1
        assert sum("extra" in resources for resources in offered) == 1
    finally:
        cluster.close()
        end_all_below(cluster.folder)


@pytest.mark.engine
def test_the_steps_by_hand_of_the_readme_word_for_word(cluster, home, tmp_path):
    (block,) = console_blocks("2. ")
    # This test's ports and folder of runs; and a home without a token, so that the one made here is its own.
    script = block.replace(":8265", f":{cluster.dashboard}").replace("$PWD/runs", str(tmp_path / "runs"))
    agent = str(free_port())  # other tests' clusters may have taken the usual one
    environment = cluster.merged({}) | {"HOME": str(home), "XDG_CACHE_HOME": CACHE, "UNISD_AGENT_PORT": agent}
    del environment["RAY_AUTH_TOKEN_PATH"], environment["RAY_API_SERVER_ADDRESS"]
    try:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=1500,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-4000:]
    finally:
        end_all_below(cluster.folder)
    assert "the cluster (nodes: 3) can run every process:" in done.stdout
    summary = FinishedRun(tmp_path / "runs/arithmetic", done.stdout).summary
    assert summary["status"] == "completed"
    assert summary["engine"] == "vllm"
    assert summary["after"]["accuracy"] > summary["before"]["accuracy"]
    assert (home / ".ray/auth_token").read_text().strip() not in done.stdout

"""`ray job submit -- python -m unisd_rl.run`, from a working directory and with the package installed.

Engine starts of this file: one, in the slow tier.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.finished import (
    REPOSITORY,
    FinishedRun,
    assert_accuracy_is_what_its_items_say,
    assert_every_prompt_exactly_once_and_in_order,
    assert_staleness_within,
)
from tests.fakes.local_nodes import free_port, short_folder
from tests.fakes.prometheus import PrometheusServer, prometheus

BIN = Path(sys.executable).parent
PROMETHEUS = shutil.which("prometheus")
START_TIMEOUT_S = 120
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",  # Ray's clusters refuse whoever does not show the token
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_metrics_report_interval_ms": "1000",
}
SHORT = ("--run.steps", "2", "--learner.batch_size", "16", "--task.eval_examples", "32", "--run.name", "run")


@pytest.fixture(scope="module")
def rays_folder() -> Iterator[Path]:
    """What the head calls its folder for temporary files."""
    folder = short_folder()
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(ray_start_turn, tmp_path_factory, rays_folder) -> Iterator[str]:
    """A Ray head of our own, ended through the process that holds it; on ports that no other Ray here has."""
    port, dashboard, agent = free_port(), free_port(), free_port()
    head = subprocess.Popen(
        [
            BIN / "ray", "start", "--head", "--block", "--num-cpus=4", "--disable-usage-stats",
            f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1",
            "--node-ip-address=127.0.0.1", f"--dashboard-agent-listen-port={agent}",
            f"--temp-dir={rays_folder}",
        ],
        cwd=tmp_path_factory.mktemp("head"), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield ready(f"http://127.0.0.1:{dashboard}", head)
    finally:
        head.terminate()
        head.wait(timeout=60)


def ready(address: str, head: subprocess.Popen) -> str:
    """The address, once jobs can be submitted there."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=1):
            return address
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise AssertionError(f"ray start ended with exit code {head.wait(timeout=0.5)}")
    raise AssertionError(f"waited {START_TIMEOUT_S} s for Ray's dashboard at {address}")


def submit(cluster: str, cwd: Path, options: tuple[str, ...], arguments: tuple[str, ...]) -> str:
    done = subprocess.run(
        [
            BIN / "ray",
            "job",
            "submit",
            "--address",
            cluster,
            *options,
            "--",
            "python",
            "-m",
            "unisd_rl.run",
            *arguments,
        ],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def assert_run_is_whole(run: FinishedRun, steps: int) -> None:
    assert run.summary["status"] == "completed"
    assert_every_prompt_exactly_once_and_in_order(run, steps, 16)
    assert_staleness_within(run, bound=1)
    assert_accuracy_is_what_its_items_say(run)


@pytest.fixture(scope="module")
def scraped(cluster, rays_folder, tmp_path_factory) -> Iterator[tuple[FinishedRun, PrometheusServer | None]]:
    """A run submitted from a working directory, and Prometheus beside it where that is installed."""
    folder = tmp_path_factory.mktemp("scraped")
    longer = ("--run.steps", "8", "--run.name", "scraped", "--faults.ping_s", "1", "--run.dir", str(folder))
    arguments = (*SHORT, *longer, "--rollout.engine.type", "transformers")
    with prometheus(PROMETHEUS, rays_folder, folder) if PROMETHEUS else contextlib.nullcontext() as server:
        output = submit(cluster, REPOSITORY, ("--working-dir", "."), arguments)
        yield FinishedRun(folder / "scraped", output), server


def test_submitted_from_a_working_directory(scraped):
    run, _ = scraped
    assert_run_is_whole(run, steps=8)


@pytest.mark.slow
@pytest.mark.engine
def test_submitted_with_the_package_installed_from_an_empty_directory(cluster, tmp_path):
    (tmp_path / "empty").mkdir()
    output = submit(cluster, tmp_path / "empty", (), (*SHORT, "--run.dir", str(tmp_path)))
    assert_run_is_whole(FinishedRun(tmp_path / "run", output), steps=2)


@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed (Debian package of that name)")
def test_prometheus_answers_every_query_of_the_dashboard(scraped):
    run, server = scraped
    dashboard = json.loads((REPOSITORY / "deploy/grafana/unisd_rl.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert [query for query in queries if not server.answer(query.replace("$run", "scraped"))] == []
    (steps,) = server.answer('ray_unisd_rl_steps{run="scraped"}')
    (loss,) = server.answer('ray_unisd_rl_loss_loss{run="scraped"}')
    assert {value for _, value in steps["values"]} == {"8"}
    assert {float(value) for _, value in loss["values"]} <= {row["loss"] for row in run.metrics}


def test_a_relative_run_folder_is_refused_in_a_job(cluster, tmp_path):
    with pytest.raises(AssertionError, match=r"run\.dir = .* is relative"):
        submit(cluster, tmp_path, (), SHORT)

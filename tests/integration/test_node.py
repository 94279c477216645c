"""deploy/node.sh: what a node offers and waits for, when it is healthy, and how a job is submitted."""

import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.fakes.deployment import DEPLOY, ROOT
from tests.fakes.local_nodes import free_port

TOKEN = "a-token"


class Head(BaseHTTPRequestHandler):
    """The two paths of a head: the node's own, which asks for no token, and the first one of a submission."""

    def do_GET(self):
        shown = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        known = {"/api/local_raylet_healthz": 200, "/api/version": 200 if shown else 401}
        self.send_response(known.get(self.path, 404))
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def head() -> Iterator[int]:
    """The port on which a head answers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Head)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join(timeout=10)
    server.server_close()


@pytest.fixture
def path(tmp_path) -> str:
    """PATH with a `ray` before all others that prints its words, a line each."""
    ray = tmp_path / "ray"
    ray.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    ray.chmod(0o755)
    return f"{tmp_path}{os.pathsep}{os.environ['PATH']}"


def node(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    usual: Mapping[str, str] = {"PATH": os.environ["PATH"], "UNISD_WAIT_S": "0", "RAY_AUTH_TOKEN": TOKEN}
    return subprocess.run(
        [DEPLOY / "node.sh", *words], cwd=ROOT, env={**usual, **environment}, capture_output=True, text=True, timeout=60
    )


def at(port: int) -> dict[str, str]:
    return {"UNISD_DASHBOARD_PORT": str(port)}


def test_a_head_is_healthy_when_it_takes_jobs_at_the_address_that_others_use(head):
    node_lives = {"UNISD_AGENT_PORT": str(head)}
    assert node("healthy", **node_lives).returncode == 0
    assert node("healthy", "head", **node_lives, **at(head)).returncode == 0
    elsewhere = node("healthy", "head", **node_lives, **at(free_port()))
    assert elsewhere.returncode != 0, "the node lives, and nobody could submit a job"
    assert "/api/version: " in elsewhere.stderr
    assert node("healthy", "head", **node_lives, **at(head), RAY_AUTH_TOKEN="another").returncode != 0


def test_the_proxy_of_a_site_is_not_asked_for_the_cluster(head, path):
    proxy = {"http_proxy": f"http://127.0.0.1:{free_port()}", "NO_PROXY": ".inside"}
    assert node("healthy", "head", UNISD_AGENT_PORT=str(head), **at(head), **proxy).returncode == 0
    ray = Path(path.partition(os.pathsep)[0]) / "ray"
    ray.write_text('#!/bin/sh\necho "$no_proxy"\n')
    done = node("job", **at(head), PATH=path, **proxy, UNISD_HEAD="localhost")
    assert done.stdout == ".inside,127.0.0.1,localhost,localhost\n"


def test_a_node_that_does_not_live_is_not_healthy(head):
    assert node("healthy", "head", UNISD_AGENT_PORT=str(free_port()), **at(head)).returncode != 0


@pytest.mark.parametrize(
    ("role", "variable", "what"),
    [
        ("learner", "UNISD_PORT", "the head at 127.0.0.1:{}"),
        ("rollout", "UNISD_PORT", "the head at 127.0.0.1:{}"),
        ("job", "UNISD_DASHBOARD_PORT", "the head at http://127.0.0.1:{}"),
        ("wait", "UNISD_DASHBOARD_PORT", "the head at http://127.0.0.1:{}"),
    ],
)
def test_every_wait_for_the_head_is_bounded_and_says_what_for(role, variable, what):
    port = free_port()
    done = node(role, **{variable: str(port)})
    assert done.returncode == 1
    assert done.stdout == f"waiting up to 0 s for {what.format(port)}\n"
    assert f"deploy/node.sh: waited 0 s for {what.format(port)} (" in done.stderr
    assert "Connection refused); start it, or raise UNISD_WAIT_S" in done.stderr


@pytest.mark.parametrize(("role", "offered"), [("head", ["--num-cpus=0", "--num-gpus=0"]), ("learner", [])])
def test_a_head_offers_nothing_that_computes_and_other_nodes_what_ray_finds(head, path, role, offered):
    done = node(role, UNISD_PORT=str(head), PATH=path)
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    assert [word for word in words if word.startswith(("--num-cpus", "--num-gpus"))] == offered
    assert (f"--port={head}" if role == "head" else f"--address=127.0.0.1:{head}") in words


@pytest.mark.parametrize("token", [TOKEN, "another"], ids=["token", "refused"])
def test_a_job_is_submitted_with_the_words_of_its_variable(head, path, token):
    """A wrong token too: Ray says best what it refuses."""
    job = """unisd_star cluster --run.name "two words" --resume '' -n"""
    done = node("job", **at(head), PATH=path, UNISD_JOB=job, RAY_AUTH_TOKEN=token)
    assert done.returncode == 0, done.stderr
    submit = ["job", "submit", "--", "python", "-m", "unisd_rl.run"]
    assert done.stdout.splitlines() == [
        *submit, "unisd_star", "cluster", "--run.name", "two words", "--resume", "", "-n",
    ]  # fmt: skip


def test_an_unknown_role_is_refused_in_one_sentence():
    done = node("boss")
    assert done.returncode == 2
    roles = "head, learner, rollout, node, job, wait or healthy"
    assert done.stderr == f"deploy/node.sh: there is no role boss; say {roles}\n"

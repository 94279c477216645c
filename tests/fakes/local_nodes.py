"""A cluster on this machine from the commands of the deployment files: one process for each container.

Commands are run as they are written. Only the environment differs from a container's: ports and folders of this
machine, and the name `head`, which is the loopback here. Every process is ended through its own handle.
"""

import contextlib
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psutil

from tests.fakes.deployment import ROOT, Command, health_command, service_command

TIMEOUT_S = 120.0
JOB_TIMEOUT_S = 500.0
_OF_A_CONTAINER = ("XDG_CACHE_HOME", "HF_HOME")  # folders of the volume; here the user's own caches do
_OURS = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "UNISD_"))}


def short_folder() -> Path:
    """A new folder for Ray's sockets, whose paths have at most 107 characters: pytest's own are too long."""
    return Path(tempfile.mkdtemp(prefix="ray-"))


@dataclass(slots=True)
class LocalNode:
    """A running node, the environment its commands see, and what it printed."""

    process: subprocess.Popen[str]
    environment: Mapping[str, str]
    log: Path


@dataclass(slots=True)
class LocalNodes:
    """The nodes of one cluster. Its `folder` is new, and short: Ray's sockets lie below it."""

    folder: Path = field(default_factory=short_folder)
    nodes: list[LocalNode] = field(default_factory=list)
    port: int = 0
    dashboard: int = 0
    started: Iterator[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        self.port, self.dashboard = free_port(), free_port()
        self.token.write_text(secrets.token_hex(32))

    @property
    def token(self) -> Path:
        """The file with the token of this cluster."""
        return self.folder / "token"

    @property
    def environment(self) -> dict[str, str]:
        """What replaces a container's hosts, ports and folders."""
        return {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{self.dashboard}",
            "UNISD_HEAD": "127.0.0.1",
            "UNISD_PORT": str(self.port),
            "UNISD_DASHBOARD_HOST": "127.0.0.1",
            "UNISD_DASHBOARD_PORT": str(self.dashboard),
            "UNISD_OBJECT_STORE": "100000000",
            "UNISD_TEMP": str(self.folder),
        }

    def start_service(self, name: str) -> LocalNode:
        """A service of docker-compose.yml; returns when Compose would call it healthy."""
        command = service_command(name, {})
        node = self.start(command, UNISD_AGENT_PORT=str(free_port()))
        check = health_command(name, {})
        wait_until(lambda: self.call(Command(check.argv, node.environment)).returncode == 0, f"{name} is healthy", node)
        return node

    def start(self, command: Command, **more: str) -> LocalNode:
        """A node's process, held in the foreground."""
        environment = self.merged(command.environment) | more
        log = self.folder / f"{next(self.started)}.log"
        process = subprocess.Popen(
            command.argv, cwd=ROOT, env=environment, stdout=log.open("w"), stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.nodes.append(LocalNode(process, environment, log))
        return self.nodes[-1]

    def merged(self, of_container: Mapping[str, str]) -> dict[str, str]:
        """The environment of a command of a container, on this machine."""
        theirs = {name: value for name, value in of_container.items() if name not in _OF_A_CONTAINER}
        return {**_OURS, **theirs, **self.environment}

    def stop(self, node: LocalNode) -> None:
        """End a node as a container's end does."""
        end(node.process)
        self.nodes.remove(node)

    def close(self) -> None:
        """End all, the head last."""
        for node in reversed(self.nodes):
            end(node.process)
        self.nodes.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def submit(self, job: str, service: str = "job") -> subprocess.Popen[str]:
        """The command of the service that submits; `job` follows `python -m unisd_rl.run`."""
        command = service_command(service, {"UNISD_JOB": job})
        return self.popen(command.argv, command.environment)

    def popen(self, argv: tuple[str, ...], of_container: Mapping[str, str]) -> subprocess.Popen[str]:
        """A command whose output is read through one pipe."""
        return subprocess.Popen(
            argv, cwd=ROOT, env=self.merged(of_container), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, *argv: str, **more: str) -> subprocess.CompletedProcess[str]:
        """A command of a person who has the token, to its end."""
        return self.call(Command(argv, self.merged({"RAY_AUTH_MODE": "token"}) | more))

    def call(self, command: Command) -> subprocess.CompletedProcess[str]:
        """A command in exactly the environment it names, to its end."""
        return subprocess.run(
            command.argv, cwd=ROOT, env=dict(command.environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=JOB_TIMEOUT_S,
        )  # fmt: skip


def wait_until(ready, what: str, node: LocalNode | None = None, timeout_s: float = TIMEOUT_S) -> None:
    """Return when `ready()` is true; fail when the node ends before or the time is up."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        ended = node is not None and node.process.poll() is not None
        assert not ended, f"ended with {node.process.returncode} before {what}:\n{node.log.read_text()[-4000:]}"
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s until {what}"
        with contextlib.suppress(subprocess.TimeoutExpired):
            _pause(node)


def end(process: subprocess.Popen) -> None:
    """SIGTERM to a process, then to what is left of its children."""
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=30)
    for child in psutil.wait_procs(children, timeout=10)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def free_port() -> int:
    """A port that nobody listens on now, and that the system gives to nobody who asks for any (Linux: from 32768)."""
    while True:
        port = random.randrange(20_000, 32_768)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def _pause(node: LocalNode | None) -> None:
    """Half a second, or less if the node ends."""
    if node is None:
        time.sleep(0.5)
    else:
        node.process.wait(timeout=0.5)

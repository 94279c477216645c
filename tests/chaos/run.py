"""A run on a cluster of several nodes, all of this machine, and what is seen of it from outside while it goes on.

Nodes are those of `ray.cluster_utils.Cluster`: the head (driver, queue, store), one for the learner, two for rollout
actors, that come and go; or the head alone with all of them, where they take turns. The driver is a process of its own,
`python -m unisd_rl.run`, started and resumed as a person would. Everything here reads files and processes only: the run
does not know that it is watched.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from ray.cluster_utils import Cluster

from actors.scale_requests import ActorCounts, InvalidRequest, ScaleRequests
from tests.fakes.finished import REPOSITORY, FinishedRun
from tests.fakes.local_nodes import end

POLL_S = 0.1
PLACES = 2  # for rollout actors on each of their nodes


class RunEnded(Exception):
    """The run came to its end, well, before what was waited for."""


class ChaoticRun:
    """See the module. The run's folder and the driver's output go to `folder`; `several` nodes, or the head alone."""

    def __init__(self, folder: Path, *arguments: str, several: bool = True) -> None:
        self.path, self.output_file = folder / "run", folder / "output.txt"
        head = {"num_cpus": 0 if several else 2, "include_dashboard": False}
        self.nodes = Cluster(initialize_head=True, head_node_args=head)
        if several:
            self.learner_node = self.add_learner_node()
            self.rollout_nodes = [self.add_rollout_node() for _ in range(2)]
        setup = ("cluster",) if several else ()
        self.driver = self._driver("unisd_star", *setup, *arguments, "--run.dir", str(folder), "--run.name", "run")
        self.resumed_s = 0.0  # when the driver was last started again, seconds since the epoch

    def add_learner_node(self):
        return self.nodes.add_node(num_cpus=1, resources={"learner": 1})

    def add_rollout_node(self):
        return self.nodes.add_node(num_cpus=PLACES, resources={"rollout": PLACES})

    def resume(self) -> None:
        self.resumed_s = time.time()
        self.driver = self._driver("--resume", str(self.path))

    def close(self) -> None:
        end(self.driver)
        self.nodes.shutdown()

    @property
    def output(self) -> str:
        return self.output_file.read_text()

    @property
    def finished(self) -> FinishedRun:
        return FinishedRun(self.path, self.output)

    @property
    def metrics(self) -> list[dict]:
        return _complete_lines(self.path / "metrics.jsonl")

    @property
    def events(self) -> list[dict]:
        return _complete_lines(self.path / "events.jsonl")

    @property
    def lineage(self) -> int:
        return len(_complete_lines(self.path / "lineages.jsonl"))

    @property
    def status(self) -> ActorCounts | None:
        try:
            return ScaleRequests(self.path).status()
        except (InvalidRequest, FileNotFoundError):
            return None

    @property
    def serving(self) -> list[str]:
        """Names of the rollout actors that serve."""
        status = self.status
        return [state.split(":")[0] for state in status.states if state.endswith(": serving")] if status else []

    @property
    def all_serve(self) -> bool:
        status = self.status
        return status is not None and status.wanted == status.serving == len(status.states)

    def processes(self, title: str) -> list[psutil.Process]:
        """Live processes of this cluster whose title begins so, the oldest first."""
        found = [process for process in psutil.Process().children(recursive=True) if _title(process).startswith(title)]
        return sorted(found, key=lambda process: process.create_time())

    def the_process(self, title: str) -> psutil.Process:
        return self.processes(title)[-1]

    def actors(self) -> list[tuple[str, psutil.Process]]:
        """Rollout actors that serve and live, by name, with their processes."""
        logs = {self.path / "logs" / f"{name}.log": name for name in self.serving}
        alive = ((_log_of(process), process) for process in self.processes("ray::RolloutActor"))
        return [(logs[log], process) for log, process in alive if log in logs]

    def until(self, condition: Callable[[], object], what: str, timeout_s: float) -> None:
        """Return when `condition()`; fail when the driver fails before, or after `timeout_s`.

        Raises:
            RunEnded: the driver has nothing more to do.
        """
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            code = self.driver.poll()
            if code == 0 and not condition():
                raise RunEnded(what)
            assert code is None or condition(), f"the driver ended with {code} before {what}:\n{self.output[-3000:]}"
            assert time.monotonic() < deadline_s, f"waited {timeout_s:g} s until {what}:\n{self.output[-3000:]}"
            time.sleep(POLL_S)

    def _driver(self, *arguments: str) -> subprocess.Popen:
        environment = {**os.environ, "RAY_ADDRESS": self.nodes.address}
        with self.output_file.open("a") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "unisd_rl.run", *arguments],
                cwd=REPOSITORY, env=environment, stdout=output, stderr=output, text=True,
            )  # fmt: skip


def _complete_lines(path: Path) -> list[dict]:
    """A file that is being appended to; it may not be there yet, and its last line not whole."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().rpartition(b"\n")[0].splitlines()]


def _title(process: psutil.Process) -> str:
    try:
        return (process.cmdline() or [""])[0]
    except psutil.Error:
        return ""


def _log_of(process: psutil.Process) -> Path | None:
    try:
        return Path(f"/proc/{process.pid}/fd/1").readlink()
    except OSError:
        return None

"""The Ray cluster that a run uses: connected to where RAY_ADDRESS is set, started on this machine where it is not."""

import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import ray
from ray.autoscaler.sdk import request_resources

from unisd_rl.cluster.resources import CPU, GPU, ClusterState, Node, Requirement, missing
from unisd_rl.cluster.stop import STOP
from unisd_rl.cluster.waiting import wait_until
from unisd_rl.config import Config
from unisd_rl.errors import RunFailed, UserError

RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Its handler of SIGTERM would print native stacks and abort; a stop is for `cluster/stop.py`. Python's own handler
    # (faulthandler) still shows where a process crashed.
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
    # A call with several answers whose first one was read and is an error: Ray would print the others' tracebacks.
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    # Memory of rollouts and weights that were read is used again at once, not after Ray's second: new pages cost four
    # times as much as copying what goes there.
    "RAY_free_objects_period_milliseconds": "10",
}
"""Set before this process starts a cluster or connects to one; other nodes have theirs (`deploy/node.sh`)."""
POLL_S = 1.0
CONNECT_S = 10.0
_SILENT = {"log_to_driver": False, "logging_level": "ERROR"}


@contextmanager
def connected(config: Config, *phases: Sequence[Requirement]) -> Iterator[None]:
    """Within this block Ray is there and has what each phase asks for; phases come one after the other.

    Logs of Ray's processes go to Ray's own files, not to the screen.

    Raises:
        UserError: the cluster lacks something after `run.cluster_timeout_s`, naming what and how much.
    """
    os.environ.update(RAY_ENVIRONMENT)
    try:
        with _stop_waits_for_ray():
            _connect(phases, config.rollout.actors_at_most - config.rollout.actors_at_start)
        for needed in phases:
            _wait_for_resources(config, needed)
        yield
    finally:
        _shut_down()


def cluster_state(address: str) -> ClusterState:
    """The nodes of the cluster at this address, and what is free on it; asks it for nothing.

    Raises:
        UserError: no cluster answers.
    """
    os.environ.update(RAY_ENVIRONMENT)
    try:
        with _stop_waits_for_ray():
            _connect_to(address)
        alive = [node for node in ray.nodes() if node["Alive"]]
        # Several nodes may share a machine: then only the identifier tells them apart.
        nodes = (Node(f"{node['NodeManagerAddress']}/{node['NodeID'][:6]}", node["Resources"]) for node in alive)
        state = ClusterState(tuple(nodes), ray.available_resources())
    finally:
        _shut_down()
    STOP.check()
    return state


@contextmanager
def _stop_waits_for_ray() -> Iterator[None]:
    """A stop that is requested while Ray starts comes after that: half started it leaves processes behind."""
    with STOP.kept(), STOP.deferred():
        yield
    STOP.check()


def _shut_down() -> None:
    """Leave the cluster, and end what was started here. A first signal meanwhile is noted only: half ended Ray leaves
    processes behind, and what has finished has."""
    with STOP.kept(), STOP.deferred():  # native code takes handlers away, and the default ends a process without a word
        ray.shutdown()


def _connect(phases: Sequence[Sequence[Requirement]], joining: int) -> None:
    """`joining`: processes that may come in mid-run; a cluster of the run's own has room for them."""
    if address := os.environ.get("RAY_ADDRESS"):
        _connect_to(address)
        return
    computing = [sum(process.count for process in needed if process.each.get(CPU)) for needed in phases]
    processes = joining + max(computing)
    custom = {name for needed in phases for process in needed for name in process.each} - {CPU, GPU}
    try:
        ray.init(
            address="local",
            num_cpus=max(processes, os.cpu_count() or 1),
            resources=dict.fromkeys(custom, float(processes)),  # so that a recipe for many machines also runs on one
            include_dashboard=False,
            **_SILENT,
        )
    except Exception as error:  # on an overloaded machine Ray raises a bare one
        reason = (str(error) or type(error).__name__).splitlines()[-1]
        raise RunFailed(f"Ray does not start on this machine: {reason}") from error


def _connect_to(address: str) -> None:
    try:
        _check_port(address)
        ray.init(address="auto" if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else address, **_SILENT)
    except OSError as error:  # Ray's ConnectionError is one
        raise UserError(
            f"no Ray cluster answers at RAY_ADDRESS = {address}: {error}; unset or mend it, and say "
            "RAY_AUTH_MODE=token if the cluster asks for a token"
        ) from None


def _check_port(address: str) -> None:
    """Raise OSError if nobody listens at `host:port`: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()


def _wait_for_resources(config: Config, needed: Sequence[Requirement]) -> None:
    """Wait for what is lacking, saying so, and ask the autoscaler for it where the cluster has one."""
    if not (lacking := missing(needed, ray.cluster_resources())):
        return
    request_resources(bundles=[dict(process.each) for process in needed for _ in range(process.count) if process.each])
    awaited, given = f"nodes: the cluster lacks {_describe_lack(lacking)}", bool(os.environ.get("RAY_ADDRESS"))

    def complete() -> bool:
        return not missing(needed, ray.cluster_resources())

    try:  # a cluster that the run started itself gets no further node
        if not (given and wait_until(complete, config.run.cluster_timeout_s, awaited, lambda: time.sleep(POLL_S))):
            what = _describe_lack(missing(needed, ray.cluster_resources()) or lacking)
            raise UserError(f"the cluster lacks {what}; add nodes or lower rollout.actors or learner.ranks")
    finally:
        request_resources(bundles=[])  # from here on the processes themselves keep their nodes busy


def _describe_lack(lacking: Mapping[str, tuple[float, float]]) -> str:
    return "; ".join(f"{name}: {need:g} needed, {there:g} there" for name, (need, there) in lacking.items())

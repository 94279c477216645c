"""What supervising rollout actors costs the driver, with every call of it a real Ray call.

    512 supervisors, each: look once a second, ping every `faults.ping_s`, a version every 10 s
         |
         +---- real calls ----> 4 Ray actors, each as the processes of 128 rollout actors

The calls go to processes that answer at once, and `run` never ends, so that what is measured is the driver's own work:
`driver_cpu_ms_per_actor_s` is its processor time for one supervised actor and second. A call of a Ray actor costs the
caller the same, however many calls others have made of that actor.
"""

import argparse
import asyncio
import os
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import ray
from ray.actor import ActorHandle

from actors.group import RolloutGroup
from actors.process import ActorProcess, PendingCall
from actors.rollout_actor import ActorSpec
from actors.supervisor import ActorSupervisor
from benchmarks.output import show_table
from unisd_rl.cluster.cores import CorePlan
from unisd_rl.cluster.ray_cluster import RAY_ENVIRONMENT
from unisd_rl.config import Config
from unisd_rl.transport.weights.store import StoreClient
from unisd_rl.types import PolicyVersion, Pulse

PROCESSES, STEP_S, START_S = 4, 10.0, 120.0


@dataclass(frozen=True)
class DriverRow:
    """`driver_cpu_s` in `seconds`, for `actors` that serve."""

    actors: int
    seconds: float
    driver_cpu_s: float
    driver_cpu_ms_per_actor_s: float


class Answering:
    """As `RolloutActor`, without an engine: every call is answered at once, but `run`."""

    async def start(self) -> PolicyVersion:
        return PolicyVersion(0, 0)

    async def update(self, version: PolicyVersion) -> PolicyVersion:
        return version

    async def ping(self) -> Pulse:
        return Pulse(PolicyVersion(0, 0), 1.0, 1.0)

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Nothing to end."""


class SharedProcess(ActorProcess):
    """A rollout actor whose process answers for many others too."""

    def __init__(self, name: str, handle: ActorHandle) -> None:
        self.name, self.log, self._handle = name, Path(f"{name}.log"), handle
        self.placed = self._pending(ray.put(None))

    def start(self) -> PendingCall[PolicyVersion]:
        return self._pending(self.handle.start.remote())

    def end(self) -> None:
        """The others still need it."""


class SharedGroup(RolloutGroup):
    """A group whose actors live in a few processes."""

    def __init__(self, spec: ActorSpec, handles: list[ActorHandle]) -> None:
        super().__init__(spec, CorePlan((), ()))
        self._handles = handles

    def _new_supervisor(self) -> ActorSupervisor:
        index = len(self._supervisors)
        handle = self._handles[index % len(self._handles)]
        actor = ActorSupervisor(
            index,
            self._spec.config,
            self._desired,
            lambda name: SharedProcess(name, handle),
            self._retired.retire,
            self._report,
        )
        self._supervisors.append(actor)
        return actor


def driver(options: argparse.Namespace) -> tuple[list[dict[str, object]], dict[str, float]]:
    """One row, of the largest number of actors."""
    os.environ.update(RAY_ENVIRONMENT)
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR", runtime_env=here())
    try:
        row = measure(max(options.actors), options.seconds)
    finally:
        ray.shutdown()
    names = [field.name for field in fields(DriverRow)]
    show_table("the driver's supervision", names, [[getattr(row, name) for name in names]])
    return [asdict(row)], {"driver_cpu_ms_per_actor_s": row.driver_cpu_ms_per_actor_s}


def measure(actors: int, seconds: float) -> DriverRow:
    """Start, serve, and look after all of them for `seconds`, with a version every `STEP_S`."""
    config = Config.model_validate({"rollout": {"actors": actors}, "objective": {"divergence": {}}})
    process = ray.remote(Answering).options(num_cpus=0, max_concurrency=10_000)
    spec = ActorSpec(config, Path("model"), Path("run"), None, StoreClient(cast(Any, None)))
    group = SharedGroup(spec, [process.remote() for _ in range(min(PROCESSES, actors))])
    group.start(START_S)
    group.run()
    began_s, cpu_s, step = time.perf_counter(), time.process_time(), 0
    while (passed_s := time.perf_counter() - began_s) < seconds:
        if passed_s >= step * STEP_S:
            step += 1
            group.broadcast(PolicyVersion(0, step))
        group.check()
        time.sleep(1.0)
    cpu_s = time.process_time() - cpu_s
    assert group.serving == actors, "an actor failed"
    group.close()
    return DriverRow(actors, passed_s, cpu_s, 1000.0 * cpu_s / passed_s / actors)


def here() -> dict[str, dict[str, str]]:
    """Where Ray's processes find this module."""
    return {"env_vars": {"PYTHONPATH": str(Path(__file__).parents[2])}}

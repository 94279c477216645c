"""Many rollout actors on one real queue, and long runs: what does a rollout cost the queue then?

`python -m benchmarks.scale --json FILE`

`--part actors`: do 512 of them complete 512 times what one does?

    caller processes (Ray)                        the queue (Ray)                 this process, as the driver
    512 actors, each: sleep 2 s an answer, on average                             admit, take, next version
                      commit, 20 KiB an answer, and lease the next -- real call -> ledger on this disk, leases
                      lease, where there was nothing -- real call -> admission

An actor is an asyncio task with a name, a lease and weights of its own; its every lease and commit is a Ray call to
the queue's process, which cannot tell it from a rollout actor in a process of its own. They live in `--processes` Ray
actors, because this machine has no room for 512 Python processes; what their engines would compute is slept. A batch
has one prompt an actor, at staleness 4, so that the admission rule is at work and the slowest rollout of a step holds
nobody up; the learner is as fast as `take`.

A group of G answers (`--answers`) sleeps G to 3 G s, evenly, and is committed whole: an answer every 2 s on average.
Linear is one rollout every 2 s an actor; `scale_linearity.N` is the rollouts/s of N actors over N / 2 s, by the sleeps
really drawn, at the first G. Per row, after a warm-up: the median of `--windows` windows of `--seconds`, the processor
time of the queue's process for a rollout (`queue_cpu_ms_per_rollout.gG`, at the last N), and its peak memory.

`--part driver`: what does supervising them cost the driver? See `scales/driver.py`.

`--part length`: does a rollout cost more late in a run? See `scales/length.py`.
"""

import argparse
import asyncio
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Awaitable
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import ray
from ray.actor import ActorHandle

from benchmarks.output import finish, machine, result_file, show_table
from benchmarks.scales.driver import driver, here
from benchmarks.scales.length import length
from benchmarks.scales.rows import prompts, rollout
from unisd_rl.cli import user_path
from unisd_rl.cluster.ray_cluster import RAY_ENVIRONMENT
from unisd_rl.config import Config
from unisd_rl.transport.rollouts.dispatch import LeaseRequest
from unisd_rl.transport.rollouts.driver_client import QueueClient, spawn_queue
from unisd_rl.transport.rollouts.schema import encode
from unisd_rl.transport.rollouts.wire import pack_request, unpack_answer
from unisd_rl.types import NumberedPrompt, PolicyVersion

STALENESS = 4
CALL_S, LEASE_WAIT_S, STEP_S = 60.0, 10.0, 120.0
SPREAD = 0.5  # a rollout sleeps 1 - SPREAD to 1 + SPREAD of the mean


@dataclass(frozen=True)
class Row:
    """`rollouts_per_s` is the median of `windows_per_s`; `queue_*` are of the queue's process."""

    actors: int
    answers: int
    processes: int
    mean_s: float
    row_bytes: int
    rollouts_per_s: float
    linear_per_s: float
    queue_cpu_ms_per_rollout: float
    queue_cores_busy: float
    callers_cores_busy: float
    queue_memory_mib: float
    windows_per_s: list[float]


class Callers:
    """A process with many simulated rollout actors."""

    def __init__(
        self, queue: ActorHandle, names: list[str], answers: int, mean_s: float, row_bytes: int, seed: int
    ) -> None:
        self._queue, self._names, self._answers = queue, names, answers
        self._mean_s, self._row_bytes = mean_s, row_bytes
        self._draw = np.random.default_rng(seed)
        self._applied = PolicyVersion(0, 0)
        self._newer = asyncio.Event()
        self._slept_s, self._slept = 0.0, 0

    async def serve(self) -> None:
        """All actors work until the process is killed."""
        await asyncio.gather(*(self._serve(name) for name in self._names))

    async def update(self, version: PolicyVersion) -> None:
        """All actors apply these weights."""
        self._applied = version
        self._newer.set()
        self._newer = asyncio.Event()

    async def used(self) -> tuple[float, float, int]:
        """Processor seconds, seconds slept so far, and how many answers for."""
        return time.process_time(), self._slept_s, self._slept

    async def _serve(self, name: str) -> None:
        prompts: list[NumberedPrompt] = []
        while True:
            group = prompts or await self._lease(name)
            version = self._applied.number
            slept_s = len(group) * self._mean_s * self._draw.uniform(1.0 - SPREAD, 1.0 + SPREAD)
            await asyncio.sleep(slept_s)
            self._slept_s, self._slept = self._slept_s + slept_s, self._slept + len(group)
            rows = encode([rollout(prompt, version, name, self._row_bytes) for prompt in group])
            request = pack_request(name, LeaseRequest(self._applied, self._answers))
            prompts = unpack_answer(await self._queue.commit_packed.remote(request, bytes(rows))).prompts

    async def _lease(self, name: str) -> list[NumberedPrompt]:
        """Ask, and ask again when newer weights have come: as `actors.service` does."""
        while True:
            asking = asyncio.ensure_future(self._ask(name))
            changed = asyncio.ensure_future(self._newer.wait())
            await asyncio.wait([asking, changed], return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            if asking.done() and (prompts := await asking):
                return prompts
            if not asking.done():
                later = self._ask(name)
                if prompts := [*await asking, *await later]:
                    return prompts

    def _ask(self, name: str) -> Awaitable[list[NumberedPrompt]]:
        return self._queue.lease.remote(name, self._applied, self._answers, LEASE_WAIT_S)


@dataclass(frozen=True)
class Moment:
    """Readings of the clocks and counts that a window lies between."""

    time_s: float
    committed: int
    queue_cpu_s: float
    callers_cpu_s: float
    slept_s: float
    sleeps: int


class Driver:
    """Admits, takes and hands on versions until a moment; `callers` are the processes."""

    def __init__(self, queue: ActorHandle, callers: list[ActorHandle], config: Config) -> None:
        self._queue, self._callers, self._batch_size = queue, callers, config.learner.batch_size
        self._client, self._ahead = QueueClient(queue, config, lambda event: print(event)), config.rollout.max_staleness
        self._step = 0

    def run_until(self, end_s: float) -> None:
        while time.perf_counter() < end_s:
            end = (self._step + self._ahead + 2) * self._batch_size
            self._client.admit(prompts(self._client.admitted, end))
            self._client.take(self._step, 1, STEP_S, on_wait=lambda: None)
            self._step += 1
            ray.get([one.update.remote(PolicyVersion(0, self._step)) for one in self._callers], timeout=CALL_S)

    def moment(self) -> Moment:
        queue_cpu_s = ray.get(self._queue.__ray_call__.remote(lambda self: time.process_time()), timeout=CALL_S)
        used = ray.get([one.used.remote() for one in self._callers], timeout=CALL_S)
        cpu_s, slept_s, sleeps = (sum(column) for column in zip(*used, strict=True))
        return Moment(time.perf_counter(), self._client.report().committed, queue_cpu_s, cpu_s, slept_s, sleeps)

    def memory_mib(self) -> float:
        peak = self._queue.__ray_call__.remote(lambda self: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return ray.get(peak, timeout=CALL_S) / 1024


def measure(actors: int, answers: int, options: argparse.Namespace, seconds: float) -> Row:
    """One row, on a queue and a folder of its own."""
    config = Config.model_validate(
        {
            "learner": {"batch_size": actors * answers},
            "rollout": {"max_staleness": STALENESS, "answers_per_prompt": answers},
            "objective": {"divergence": {}},
        }
    )
    processes = min(options.processes, actors)
    with tempfile.TemporaryDirectory(dir=options.folder, ignore_cleanup_errors=True) as folder:
        queue = spawn_queue(Path(folder), config)
        names = [f"actor-{index}" for index in range(actors)]
        caller = ray.remote(Callers).options(num_cpus=0, max_concurrency=1000)
        callers = [
            caller.remote(queue, names[index::processes], answers, options.mean_s, options.row_bytes, index)
            for index in range(processes)
        ]
        serving = [one.serve.remote() for one in callers]
        driver = Driver(queue, callers, config)
        moments = windows(driver, options, seconds)
        assert not ray.wait(serving, timeout=0)[0], "an actor ended"
        row = row_of(actors, answers, processes, options, moments, driver.memory_mib())
        for one in (*callers, queue):
            ray.kill(one)
    return row


def windows(driver: Driver, options: argparse.Namespace, seconds: float) -> list[Moment]:
    """The moments between the windows; steps are whole, so that a window is as long as its last step makes it."""
    driver.run_until(time.perf_counter() + max(2.0 * options.mean_s, seconds / 3))
    moments = [driver.moment()]
    for _ in range(options.windows):
        driver.run_until(moments[-1].time_s + seconds)
        moments.append(driver.moment())
    return moments


def row_of(
    actors: int, answers: int, processes: int, options: argparse.Namespace, moments: list[Moment], memory_mib: float
) -> Row:
    rates = [
        (after.committed - before.committed) / (after.time_s - before.time_s) for before, after in pairwise(moments)
    ]
    first, last = moments[0], moments[-1]
    seconds, rollouts = last.time_s - first.time_s, last.committed - first.committed
    mean_s = (last.slept_s - first.slept_s) / (last.sleeps - first.sleeps)
    queue_cpu_s = last.queue_cpu_s - first.queue_cpu_s
    return Row(
        actors=actors,
        answers=answers,
        processes=processes,
        mean_s=mean_s,
        row_bytes=len(encode([rollout(prompts(0, 1)[0], 0, "actor", options.row_bytes)])),
        rollouts_per_s=statistics.median(rates),
        linear_per_s=actors / mean_s,
        queue_cpu_ms_per_rollout=1000.0 * queue_cpu_s / rollouts,
        queue_cores_busy=queue_cpu_s / seconds,
        callers_cores_busy=(last.callers_cpu_s - first.callers_cpu_s) / seconds,
        queue_memory_mib=memory_mib,
        windows_per_s=rates,
    )


def ratios(rows: list[Row]) -> dict[str, float]:
    first = [row for row in rows if row.answers == rows[0].answers]
    linearity = {f"scale_linearity.{row.actors}": row.rollouts_per_s / row.linear_per_s for row in first}
    return linearity | {f"queue_cpu_ms_per_rollout.g{row.answers}": row.queue_cpu_ms_per_rollout for row in rows}


def show(rows: list[Row]) -> None:
    names = [field.name for field in fields(Row) if field.name != "windows_per_s"]
    show_table("simulated actors on one queue", names, [[getattr(row, name) for name in names] for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--length", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="rollouts of a run")
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 64, 256, 512])
    parser.add_argument("--answers", type=int, nargs="+", default=[1, 4], help="to a prompt, committed together")
    parser.add_argument("--processes", type=int, default=4, help="Ray processes that the actors live in")
    parser.add_argument("--mean-s", type=float, default=2.0, help="seconds of a rollout")
    parser.add_argument("--row-bytes", type=int, default=20 << 10)
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="of a window")
    parser.add_argument("--folder", type=user_path, help="where the ledgers go; absent: the folder for temporary files")
    parser.add_argument("--quick", action="store_true", help="1 and 8 actors, 0.2 s a rollout, 2 windows of 1 s")
    parser.add_argument("--json", type=result_file, help="write machine, rows and ratios to this file")
    options = parser.parse_args()
    if options.quick:
        options.actors, options.mean_s, options.windows, options.seconds = [1, 8], 0.2, 2, 1.0
        options.length = [1024, 4096]
    found_on, rows, found = machine(), [], {}
    for part in options.part:
        measured, compared = PARTS[part](options)
        rows += measured
        found |= compared
    finish(found_on, rows, found, options.json)


def actors_part(options: argparse.Namespace) -> tuple[list[dict[str, object]], dict[str, float]]:
    """One queue after the other, on a Ray of its own."""
    os.environ.update(RAY_ENVIRONMENT)
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR", runtime_env=here())
    try:
        rows = [
            measure(actors, answers, options, options.seconds)
            for actors in options.actors
            for answers in options.answers
        ]
    finally:
        ray.shutdown()
    show(rows)
    return [asdict(row) for row in rows], ratios(rows)


PARTS = {"actors": actors_part, "driver": driver, "length": length}

if __name__ == "__main__":
    main()

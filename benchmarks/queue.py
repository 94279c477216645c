"""The rollout queue against ray.util.queue: the same rows, the same processes, side by side.

`python -m benchmarks.queue --json FILE` sends rollouts of 20 KiB with five views, in lists of `--rows`, from two
producers (Ray actors) through a queue (a Ray actor) to one consumer (this process), each with one call at a time:

    rows, durable      numpy rows -> encode -> commit -> segment and index entry -> take -> decode -> numpy rows
    rows, in memory    the same on fsspec's memory:// file system
    rows, fsync        the same, each segment synced to the disk
    ray, dicts         the same arrays through ray.util.queue, as lists of dicts
    ray, bytes         as many bytes through ray.util.queue, in opaque objects of 1 MiB

The ways alternate, each runs once untimed, and medians of `--repeats` are reported: on the clock, and the computing
of all these processes, which depends less on what else the machine does. Admission and leasing happen before the clock
starts: ray.util.queue has neither. `queue_vs_ray_queue.rows` and `.bytes` are rollouts (bytes) a second of `rows,
durable` over those of ray.util.queue, `durable_vs_memory` of `rows, durable` over `rows, in memory`; `cpu.*` are the
same of the computing (above 1: ours computes less).
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import ray
from ray.actor import ActorHandle
from ray.util.queue import Queue
from rich.console import Console
from rich.progress import Progress

from benchmarks.output import finish, machine, result_file, show_table
from unisd_rl.cli import user_path
from unisd_rl.cluster.ray_cluster import RAY_ENVIRONMENT
from unisd_rl.config import Config
from unisd_rl.transport.rollouts.driver_client import QueueClient, spawn_queue
from unisd_rl.transport.rollouts.schema import decode, encode
from unisd_rl.types import Message, NumberedPrompt, PolicyVersion, Prompt, Rollout, Source, TokenView, ViewKind

CORES = len(os.sched_getaffinity(0))
PRODUCERS = 2
OBJECT_BYTES = 1 << 20  # about: as many bytes as the rows have, in whole objects
VIEWS = (ViewKind.PRIMARY, ViewKind.AUXILIARY, ViewKind.AUXILIARY, ViewKind.AUXILIARY, ViewKind.NEGATIVE)
PROMPT_TOKENS, VIEW_TOKENS, COMPLETION_TOKENS = 360, 700, 315
ROW_BYTES = 4 * (PROMPT_TOKENS + len(VIEWS) * VIEW_TOKENS + 4 * COMPLETION_TOKENS)  # 20 KiB
CALL_S = 300.0

DURABLE, MEMORY, FSYNC, DICTS, BYTES = "rows, durable", "rows, in memory", "rows, fsync", "ray, dicts", "ray, bytes"
WAYS = (DURABLE, MEMORY, FSYNC, DICTS, BYTES)


@dataclass(frozen=True)
class Row:
    """One way: seconds for all rollouts (or bytes in their stead) on the clock and of computing, medians."""

    way: str
    rollouts: int
    rollouts_per_s: float
    mib_per_s: float
    median_s: float
    median_cpu_s: float
    all_s: list[float]


def rollout(number: int) -> Rollout:
    """A row of random tokens: 20 KiB of arrays."""
    chance = np.random.default_rng(number)

    def tokens(count: int) -> np.ndarray:
        return chance.integers(0, 150_000, count, np.int32)

    return Rollout(
        number=number,
        id=f"train/{number}",
        source=Source.POLICY,
        prompt_tokens=tokens(PROMPT_TOKENS),
        views=tuple(TokenView(kind, tokens(VIEW_TOKENS)) for kind in VIEWS),
        completion_tokens=tokens(COMPLETION_TOKENS),
        logprobs=-chance.random(COMPLETION_TOKENS, np.float32),
        lineages=np.zeros(COMPLETION_TOKENS, np.int32),
        versions=np.zeros(COMPLETION_TOKENS, np.int32),
        finish_reason="stop",
        seed=number,
        actor="producer",
        started_s=1.0,
        finished_s=2.0,
    )


def as_dict(row: Rollout) -> dict[str, Any]:
    """The same columns as plain Python and numpy."""
    plain = {name: getattr(row, name) for name in Rollout.__slots__}
    views = [{"kind": view.kind.value, "tokens": view.tokens} for view in row.views]
    return {**plain, "source": row.source.value, "views": views}


def objects_of(rows: int) -> int:
    """Opaque objects that carry the bytes of one list."""
    return max(1, round(rows * ROW_BYTES / OBJECT_BYTES))


class Producer:
    """Holds lists of rows, made beforehand, and sends them one after the other."""

    def __init__(self, first: int, lists: int, rows: int) -> None:
        arrays = [rollout(number) for number in range(rows)]
        starts = [index * rows for index in range(first, lists, PRODUCERS)]
        self._lists = [[replace(row, number=start + row.number) for row in arrays] for start in starts]
        self._dicts = [[as_dict(row) for row in one] for one in self._lists]
        self._object = os.urandom(rows * ROW_BYTES // objects_of(rows))

    def pid(self) -> int:
        return os.getpid()

    def commit(self, queue: ActorHandle, part: slice) -> None:
        for rows in self._lists[part]:
            ray.get(queue.commit.remote("producer", encode(rows)), timeout=CALL_S)

    def put_dicts(self, queue: Queue, part: slice) -> None:
        for rows in self._dicts[part]:
            queue.put(rows)

    def put_bytes(self, queue: Queue, part: slice) -> None:
        for rows in self._lists[part]:
            for _ in range(objects_of(len(rows))):
                queue.put(self._object)


@dataclass(frozen=True)
class Bench:
    """`lists` of `rows` rollouts each, sent by the producers; files go to `folder`."""

    producers: list[ActorHandle]
    lists: int
    rows: int
    folder: Path

    def run(self, way: str) -> tuple[float, float]:
        """Seconds until everything has arrived, on the clock and of computing."""
        return self._through_ray(way) if way in (DICTS, BYTES) else self._through_ledger(way)

    def _through_ledger(self, way: str) -> tuple[float, float]:
        folder = self.folder / uuid4().hex
        folder.mkdir()
        config = self._config(fsync=way == FSYNC, ledger="memory://benchmark" if way == MEMORY else None)
        queue = spawn_queue(folder, config)
        client, total = QueueClient(queue, config, print), self.lists * self.rows
        client.admit([NumberedPrompt(number, number, _PROMPT) for number in range(total)])
        leased = ray.get(queue.lease.remote("producer", PolicyVersion(0, 0), total, CALL_S), timeout=CALL_S)
        assert len(leased) == total
        seen: list[int] = []

        def consume(steps: range) -> None:
            for step in steps:
                batch = client.take(step, 1, CALL_S, lambda: None)
                seen.extend(row.number for row in decode(ray.get(batch.shards[0], timeout=CALL_S)))

        taken = self._timed(queue, lambda producer, part: producer.commit.remote(queue, part), consume)
        assert seen == list(range(total)), "rows are missing or out of order"
        ray.kill(queue)
        shutil.rmtree(folder)
        return taken

    def _through_ray(self, way: str) -> tuple[float, float]:
        queue = Queue(actor_options={"num_cpus": 0})
        seen: list[int] = []

        def consume_dicts(lists: range) -> None:
            for _ in lists:
                seen.extend(row["number"] for row in queue.get(timeout=CALL_S))

        def consume_bytes(lists: range) -> None:
            for _ in range(len(lists) * objects_of(self.rows)):
                queue.get(timeout=CALL_S)

        if way == DICTS:
            taken = self._timed(queue.actor, lambda one, part: one.put_dicts.remote(queue, part), consume_dicts)
            assert sorted(seen) == list(range(self.lists * self.rows)), "rows are missing"
        else:
            taken = self._timed(queue.actor, lambda one, part: one.put_bytes.remote(queue, part), consume_bytes)
        queue.shutdown(force=True)
        return taken

    def _timed(
        self, queue: ActorHandle, send: Callable[[ActorHandle, slice], ray.ObjectRef], consume: Callable[[range], None]
    ) -> tuple[float, float]:
        """The first list of each producer warms the queue's process up before the clock starts."""
        pids = ray.get([producer.pid.remote() for producer in self.producers], timeout=CALL_S)
        pids += [os.getpid(), ray.get(queue.__ray_call__.remote(lambda _: os.getpid()), timeout=CALL_S)]
        ray.get([send(producer, slice(0, 1)) for producer in self.producers], timeout=CALL_S)
        consume(range(PRODUCERS))
        started, computed = time.perf_counter(), _cpu_s(pids)
        sent = [send(producer, slice(1, None)) for producer in self.producers]
        consume(range(PRODUCERS, self.lists))
        taken = time.perf_counter() - started, _cpu_s(pids) - computed
        ray.get(sent, timeout=CALL_S)
        return taken

    def _config(self, fsync: bool, ledger: str | None) -> Config:
        rollout = {"max_staleness": self.lists, "fsync": fsync, "ledger": ledger, "lease_s": 10 * CALL_S}
        sections = {"rollout": rollout, "learner": {"batch_size": self.rows}, "objective": {"divergence": {}}}
        return Config.model_validate(sections)


_PROMPT = Prompt("p", (Message("user", "what is asked"),), ())


def _cpu_s(pids: list[int]) -> float:
    """Seconds of computing of these processes so far; Linux has a clock for each (clock_getcpuclockid)."""
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def measure(bench: Bench, repeats: int) -> list[Row]:
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("queue", total=(1 + repeats) * len(WAYS))
        for repeat in range(1 + repeats):  # the first touches memory that the others use again
            for way in WAYS:
                seconds = bench.run(way)
                if repeat:
                    taken[way].append(seconds)
                progress.advance(bar)
    return list(_rows(taken, (bench.lists - PRODUCERS) * bench.rows))


def _rows(taken: dict[str, list[tuple[float, float]]], rollouts: int) -> Iterator[Row]:
    for way, times in taken.items():
        clock, computing = zip(*times, strict=True)
        median_s = statistics.median(clock)
        mib_per_s = rollouts * ROW_BYTES / median_s / 2**20
        yield Row(way, rollouts, rollouts / median_s, mib_per_s, median_s, statistics.median(computing), [*clock])


def ratios(rows: list[Row]) -> dict[str, float]:
    clock, computing = ({row.way: times(row) for row in rows} for times in (_clock, _computing))
    wanted = {
        "queue_vs_ray_queue.rows": (DICTS, DURABLE),
        "queue_vs_ray_queue.bytes": (BYTES, DURABLE),
        "durable_vs_memory": (MEMORY, DURABLE),
        "fsync_vs_memory": (MEMORY, FSYNC),
    }
    found = {name: clock[other] / clock[ours] for name, (other, ours) in wanted.items()}
    return found | {f"cpu.{name}": computing[other] / computing[ours] for name, (other, ours) in wanted.items()}


def _clock(row: Row) -> float:
    return row.median_s


def _computing(row: Row) -> float:
    return row.median_cpu_s


def show(rows: list[Row]) -> None:
    columns = ("way", "rollouts/s", "MiB/s", "seconds (median)", "computing, us a rollout")
    show_table("queue", columns, [_shown(row) for row in rows])


def _shown(row: Row) -> tuple[str | float, ...]:
    computing_us = row.median_cpu_s / row.rollouts * 1e6
    return row.way, row.rollouts_per_s, row.mib_per_s, row.median_s, computing_us


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=512, help="rollouts a list and a batch")
    parser.add_argument("--lists", type=int, default=40, help="the first of each producer is not timed")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="4 lists of 16 rollouts, 1 repetition")
    parser.add_argument(
        "--dir", type=user_path, help="where the ledgers are written (default: the system's temporary folder)"
    )
    parser.add_argument("--json", type=result_file, help="write machine, rows and ratios to this file")
    options = parser.parse_args()
    rows, lists, repeats = (16, 4, 1) if options.quick else (options.rows, options.lists, options.repeats)
    sizes = {"rows": rows, "lists": lists, "row_bytes": ROW_BYTES, "producers": PRODUCERS}
    found_on = machine(**sizes)
    os.environ.update(RAY_ENVIRONMENT)
    ray.init(address="local", include_dashboard=False, num_cpus=CORES, log_to_driver=False)
    try:
        with tempfile.TemporaryDirectory(dir=options.dir) as folder:
            spawned = ray.remote(Producer).options(num_cpus=0)
            producers = [spawned.remote(first, lists, rows) for first in range(PRODUCERS)]
            found = measure(Bench(producers, lists, rows, Path(folder)), repeats)
    finally:
        ray.shutdown()
    show(found)
    finish(found_on, [asdict(row) for row in found], ratios(found), options.json)


if __name__ == "__main__":
    main()

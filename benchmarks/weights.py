"""Weights from the learner into a serving engine, whole and in parts: what our path adds to what must be done.

`python -m benchmarks.weights --json FILE` makes random Qwen2 models of 10, 100 and 500 M parameters (tiny vocabulary
and context) and, in processes of a local Ray as a run has them (a learner on the last core, an actor with a real vLLM
engine on the first, the weight store), repeats in turn

- the whole transfer: the learner publishes, the actor receives, until the engine serves the new version;
- its parts called by hand, each alone: the snapshot (tensors copied into memory, without a checksum) and its `ray.put`
  by the learner, `ray.get` by the actor, and vLLM's layerwise load of the same bytes, mapped already, in the engine's
  process;
- one copy of the bytes from memory to memory, and writing and reading them as a safetensors file.

Medians of `--repeats`. `transfer_vs_parts.SIZE` is the first over the sum of the second,
`transfer_vs_put_get_load.SIZE` leaves the snapshot out of that sum, `pause_vs_load.SIZE` is what the idle engine was
paused for over the load alone.
`load_average` says what else the machine did; where that is much, `least_s`, the smallest times, say more.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import load_file, save_file

from actors.engines.engine import EngineSpec, PauseReport
from actors.engines.vllm_engine import VllmRolloutEngine
from actors.process import actor_environment
from benchmarks.output import finish, machine, result_file, show_table
from learner.rank_process import rank_environment
from unisd_rl.cluster.cores import Cores, bind_to
from unisd_rl.cluster.ray_cluster import RAY_ENVIRONMENT
from unisd_rl.config import Config
from unisd_rl.storage.logs import redirect_output
from unisd_rl.transport.weights.build import weight_transport
from unisd_rl.transport.weights.object_store import ObjectStorePublisher
from unisd_rl.transport.weights.shared_memory import SharedMemory
from unisd_rl.transport.weights.snapshot import BucketMemory, manifest_of, pack
from unisd_rl.transport.weights.store import StoreClient, spawn_store
from unisd_rl.types import PolicyVersion

CORES = sorted(os.sched_getaffinity(0))
TIMEOUT_S = 600.0
START_S = 300.0


@dataclass(frozen=True)
class Size:
    """A Qwen2 of so many layers of width `hidden`, four times that in its feed-forward part, heads of 64."""

    name: str
    hidden: int
    layers: int


SIZES = (Size("10m", 256, 10), Size("100m", 768, 11), Size("500m", 1536, 13))
PARTS = ("snapshot", "put", "get", "load")
MEASURED = ("transfer", "publish", "pause", *PARTS, "copy", "safetensors")


@dataclass(frozen=True)
class Row:
    """One size. Seconds by what was measured: medians, the smallest, and all of them."""

    size: str
    parameters: int
    dtype: str
    mib: float
    medians_s: dict[str, float]
    least_s: dict[str, float]
    all_s: dict[str, list[float]]
    load_average: tuple[float, float]

    @property
    def ratios(self) -> dict[str, float]:
        return {f"{name}.{self.size}": value for name, value in ratios(self.medians_s).items()}


def ratios(seconds: dict[str, float]) -> dict[str, float]:
    """What is compared with what."""
    transfer, parts = seconds["transfer"], sum(seconds[part] for part in PARTS)
    return {
        "transfer_vs_parts": transfer / parts,
        "pause_vs_load": seconds["pause"] / seconds["load"],
        "transfer_vs_put_get_load": transfer / (parts - seconds["snapshot"]),
        "transfer_vs_copy": transfer / seconds["copy"],
        "transfer_vs_safetensors": transfer / seconds["safetensors"],
    }


class Learner:
    """The process that trains, reduced to its weights."""

    def __init__(self, folder: Path, config: Config, cores: Cores, store: StoreClient) -> None:
        bind_to(cores)
        torch.set_num_threads(len(cores))
        self._weights = load_file(folder / "model.safetensors")
        self._bucket_bytes = config.weights.bucket_mib << 20
        self._publisher = ObjectStorePublisher(store.handle, config.weights.bucket_mib)
        self._memory, self._kept = BucketMemory(), None
        self._buffer: np.ndarray | None = None

    def publish(self, number: int) -> tuple[float, float]:
        """As `RankProcess.publish`: when it began (the machine's clock), and seconds until training may go on."""
        began, started = time.time(), time.perf_counter()
        self._publisher.publish(PolicyVersion(0, number), self._weights.items())
        return began, time.perf_counter() - started

    def wait(self) -> None:
        """Return when nothing of a publication is under way."""
        self._publisher.wait(TIMEOUT_S)

    def snapshot(self) -> float:
        """By hand: every tensor copied into memory that is there already, a bucket's worth of it."""
        tensors = [tensor.view(torch.uint8).numpy().ravel() for tensor in self._weights.values()]
        if self._buffer is None:
            self._buffer = np.ones(self._bucket_bytes, np.uint8)
        used, started = 0, time.perf_counter()
        for tensor in tensors:
            used = 0 if used + len(tensor) > len(self._buffer) else used
            np.copyto(self._buffer[used : used + len(tensor)], tensor)
            used += len(tensor)
        return time.perf_counter() - started

    def put(self) -> "tuple[float, str, list[ray.ObjectRef]]":
        """By hand: the buckets are put, which alone is timed. Also the manifest, for the load."""
        packed, seconds, self._kept = [], 0.0, []
        for bucket in pack(self._weights.items(), self._bucket_bytes, self._memory):
            packed.append(bucket)
            started = time.perf_counter()
            self._kept.append(ray.put(bucket.array))
            seconds += time.perf_counter() - started
        return seconds, manifest_of(PolicyVersion(0, 0), packed).to_json(), self._kept

    def forget(self) -> None:
        """Let go of what `put` left."""
        self._kept = None

    def copy(self) -> float:
        """The same bytes from memory to memory, pages of the target there already."""
        sources = [tensor.view(torch.uint8).numpy().ravel() for tensor in self._weights.values()]
        targets = [np.ones_like(source) for source in sources]
        started = time.perf_counter()
        for source, target in zip(sources, targets, strict=True):
            np.copyto(target, source)
        return time.perf_counter() - started

    def safetensors(self, folder: Path) -> float:
        """Write and read a file; the page cache holds it."""
        path = folder / "copy.safetensors"
        started = time.perf_counter()
        save_file(self._weights, path)
        for tensor in load_file(path).values():
            tensor.clone()  # what is read is only mapped until it is touched
        elapsed = time.perf_counter() - started
        path.unlink()
        return elapsed


class Rollout:
    """A rollout actor reduced to its engine and the way weights get there."""

    def __init__(self, folder: Path, config: Config, cores: Cores, store: StoreClient, log: Path) -> None:
        redirect_output(log)
        bind_to(cores)
        spec = EngineSpec(
            model_path=folder,
            dtype=config.model.dtype,
            cores=cores,
            max_model_len=64,
            concurrency=2,
            stop_tokens=(1,),
            verify=True,
            seed=0,
            adapter=None,
        )
        self._engine = VllmRolloutEngine(
            spec, config.rollout.engine, weight_transport(config).vllm_loader(folder), on_gpu=False
        )
        self._receiver = weight_transport(config).receiver(store)

    async def start(self) -> None:
        await self._engine.start()

    async def receive(self, number: int) -> tuple[float, PauseReport]:
        """As `RolloutActor.update`; with the time at which the engine went on."""
        snapshot = await self._receiver.fetch(PolicyVersion(0, number))
        report = await self._engine.receive(snapshot.manifest, snapshot.buckets)
        return time.time(), report

    async def get(self, references: "list[ray.ObjectRef]") -> float:
        """By hand."""
        started = time.perf_counter()
        await asyncio.gather(*references)
        return time.perf_counter() - started

    async def load(self, manifest: str, references: "list[ray.ObjectRef]") -> float:
        """By hand: seconds that the load takes in the engine's process, of bytes in memory that it has mapped."""
        memory: SharedMemory = self._engine._weights._memory
        shared = memory.write(await asyncio.gather(*references))
        return (await self._engine.call_workers("load_snapshot", manifest, shared.paths))[0]

    async def close(self) -> None:
        await self._engine.close()


def make_model(size: Size, dtype: torch.dtype, folder: Path) -> int:
    """Write a random model; returns its number of parameters."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=512,
        hidden_size=size.hidden,
        intermediate_size=4 * size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.hidden // 64,
        num_key_value_heads=size.hidden // 64,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        dtype=dtype,
        bos_token_id=None,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).to(dtype)
    model.save_pretrained(folder, max_shard_size="100GB")
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def processes(folder: Path, config: Config, nbytes: int) -> Iterator[tuple[Any, Any, StoreClient]]:
    """Learner, actor and store, started."""
    os.environ.update(RAY_ENVIRONMENT)
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=max(5 * nbytes, 200 << 20),
    )
    try:
        store, learner_cores, rollout_cores = spawn_store(), (CORES[-1],), (CORES[0],)
        learning = {"env_vars": rank_environment(config, learner_cores)}
        learner = ray.remote(Learner).options(runtime_env=learning).remote(folder, config, learner_cores, store)
        rolling = {"env_vars": actor_environment(config, rollout_cores, folder)}
        rollout = ray.remote(Rollout).options(runtime_env=rolling, max_concurrency=100)
        rollout = rollout.remote(folder, config, rollout_cores, store, Path(f"{folder}.log"))
        ray.get(rollout.start.remote(), timeout=START_S)
        yield learner, rollout, store
        ray.get(rollout.close.remote(), timeout=TIMEOUT_S)
    finally:
        ray.shutdown()


def measure(size: Size, dtype: str, repeats: int, advance: Callable[[], None]) -> Row:
    """All that is measured at one size, in turn, after one round that warms up."""
    with tempfile.TemporaryDirectory(prefix="unisd-rl-weights-") as temporary:
        folder, before = Path(temporary) / "model", os.getloadavg()[0]
        parameters = make_model(size, getattr(torch, dtype), folder)
        nbytes = parameters * getattr(torch, dtype).itemsize
        config = Config.model_validate(
            {
                "model": {"dtype": dtype, "path": str(folder)},
                "rollout": {"engine": {"type": "vllm", "kv_cache_gib": 0.1}},
                "objective": {"divergence": {}},
            }
        )
        times: dict[str, list[float]] = {name: [] for name in MEASURED}
        with processes(folder, config, nbytes) as (learner, rollout, _):
            for number in range(repeats + 1):
                for name, seconds in round_of(learner, rollout, number, Path(temporary)).items():
                    times[name].append(seconds)
                advance()
    times = {name: seconds[1:] for name, seconds in times.items()}
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    least = {name: min(seconds) for name, seconds in times.items()}
    return Row(size.name, parameters, dtype, nbytes / 2**20, medians, least, times, (before, os.getloadavg()[0]))


def round_of(learner: Any, rollout: Any, number: int, folder: Path) -> dict[str, float]:
    """Each thing once, with nothing else under way."""

    def answer(call: "ray.ObjectRef") -> Any:
        return ray.get(call, timeout=TIMEOUT_S)

    received = rollout.receive.remote(number)  # it waits, as an actor does that is at work
    began, publish = answer(learner.publish.remote(number))
    ended, pause = answer(received)
    answer(learner.wait.remote())
    snapshot, (put, manifest, references) = answer(learner.snapshot.remote()), answer(learner.put.remote())
    get, load = answer(rollout.get.remote(references)), answer(rollout.load.remote(manifest, references))
    del references
    answer(learner.forget.remote())
    copy, file = answer(learner.copy.remote()), answer(learner.safetensors.remote(folder))
    seconds = (ended - began, publish, pause.pause_ms / 1e3, snapshot, put, get, load, copy, file)
    return dict(zip(MEASURED, seconds, strict=True))


def show(rows: list[Row]) -> None:
    columns = ("size", "dtype", "MiB", *(f"{name} (s)" for name in MEASURED), "load average")
    show_table("weights into an engine, medians", columns, [_shown(row, row.medians_s) for row in rows])
    show_table("weights into an engine, smallest times", columns, [_shown(row, row.least_s) for row in rows])


def _shown(row: Row, seconds: dict[str, float]) -> tuple[str | float, ...]:
    return row.size, row.dtype, row.mib, *(seconds[name] for name in MEASURED), max(row.load_average)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=[size.name for size in SIZES], help="10m 100m 500m")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="10m alone, 3 repetitions")
    parser.add_argument("--json", type=result_file, help="write machine, rows and ratios to this file")
    options = parser.parse_args()
    found_on = machine()
    names, repeats = (["10m"], 3) if options.quick else (options.sizes, options.repeats)
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("weights", total=len(names) * (repeats + 1))
        sizes = [size for size in SIZES if size.name in names]
        rows = [measure(size, options.dtype, repeats, lambda: progress.advance(bar)) for size in sizes]
    show(rows)
    named = {name: value for row in rows for name, value in row.ratios.items()}
    finish(found_on, [asdict(row) for row in rows], named, options.json)


if __name__ == "__main__":
    main()

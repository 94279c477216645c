"""What each process of a run asks the cluster for, from the configuration alone.

`--dry-run` prints it; `cluster.py` compares it with what the connected cluster has.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unisd_rl.config import Config, RetentionConfig, TransformersEngine

CPU, GPU = "CPU", "GPU"


@dataclass(frozen=True, slots=True)
class Requirement:
    """`count` processes of one kind, and the Ray resources each of them asks for."""

    process: str
    count: int
    each: Mapping[str, float]

    def describe(self) -> str:
        """E.g. `2 x rollout actor: 1 CPU, 1 GPU`."""
        wants = ", ".join(f"{amount:g} {name}" for name, amount in self.each.items()) or "nothing"
        return f"{self.count} x {self.process}: {wants}"


def rollout_bundle(config: Config) -> dict[str, float]:
    """Ray resources of one rollout actor, tensor-parallel engines included."""
    engine = config.rollout.engine
    replicas = 1 if isinstance(engine, TransformersEngine) else engine.tensor_parallel
    return _bundle(config.rollout.gpus_per_actor * replicas, config.rollout.resources)


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
    """All processes the run begins with: actors that come in mid-run find their place then, or wait for it. Driver,
    queue and weight store ask for nothing: they wait most of the time."""
    return (
        Requirement("rollout actor", config.rollout.actors_at_start, rollout_bundle(config)),
        learner_requirement(config),
        Requirement("rollout queue", 1, {}),
        Requirement("weight store", 1, {}),
        *retention_requirement(config),
    )


def learner_requirement(config: Config) -> Requirement:
    """The processes that train."""
    return Requirement("learner rank", config.learner.ranks, learner_bundle(config))


def retention_requirement(config: Config) -> tuple[Requirement, ...]:
    """The process that measures retention, if any does."""
    settings = config.evaluation.retention
    return () if settings is None else (Requirement("retention scorer", 1, retention_bundle(settings)),)


def answering_requirements(config: Config) -> tuple[Requirement, ...]:
    """The processes that answer the problems of an evaluation, where nothing is trained."""
    return (Requirement("rollout actor", config.rollout.actors_at_start, rollout_bundle(config)),)


def missing(needed: Sequence[Requirement], total: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Resource -> (needed, there), for each resource of which `total` has too little."""
    sums: Counter[str] = Counter()
    for requirement in needed:
        for name, amount in requirement.each.items():
            sums[name] += amount * requirement.count  # type: ignore[assignment]
    return {name: (amount, total.get(name, 0.0)) for name, amount in sums.items() if amount > total.get(name, 0.0)}


def _bundle(gpus: float, resources: Mapping[str, float]) -> dict[str, float]:
    bundle = {CPU: 1.0, **resources}
    if gpus:
        bundle[GPU] = gpus
    return bundle

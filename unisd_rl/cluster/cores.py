"""The assignment of CPU cores to the processes of a run.

On a machine of few cores, spinning threads of one process starve the others: a two-threaded
learner beside vLLM slows it by an order of magnitude. So every rollout actor and every learner
rank is given cores of its own where there are enough, and shares them evenly where there are not.
Processes that own a GPU need no plan and get none; one on a node without its cores is left to the system.

Under `run.placement = "colocated"` the two sides take turns, and each has all cores in its own. Under "in_process" both
have one: their process computes on one thread, and the system chooses where.

Where the number of actors may change (`rollout.actors.max`), cores are assigned for the largest number: an engine fixes
its threads when it starts and cannot hand cores over later. So an actor alone has no more cores than one of many. Those
that `python -m unisd_rl.scale` adds beyond the plan share the cores of the first ones, in turn; on a node of their own
they share with nobody. A replaced actor has the cores of the one before it.

A container with a limit of CPU time sees all cores of its machine: the plan is for as many as the limit pays for, and
decides the number of threads alone. More threads than that would spend the time spinning; which cores they run on
is left to the system.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from unisd_rl.config import Config

CGROUP = Path("/sys/fs/cgroup")

Cores = tuple[int, ...]

BRIEF_SPINNING = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
"""Environment variables under which the threads of GNU's and of Intel's OpenMP spin for a moment, then sleep.

A thread that sleeps between two small operations is woken for each of them: on two virtual cores a token of a model of
135 million parameters takes twice as long so. One that spins for longer takes the time of whatever runs beside it.
"""


@dataclass(frozen=True, slots=True)
class CorePlan:
    """Cores of each rollout actor and of each learner rank; empty tuples leave it to the system."""

    rollout: tuple[Cores, ...]
    learner: tuple[Cores, ...]

    def of_actor(self, index: int) -> Cores:
        """Cores of the actor number `index`, which may lie beyond the plan."""
        return self.rollout[index % len(self.rollout)] if self.rollout else ()

    def describe(self) -> str:
        """One line, e.g. `rollout 0: core 0 | learner 0: core 1`."""
        plans = (("rollout", self.rollout), ("learner", self.learner))
        shares = [f"{name} {index}: {_cores(cores)}" for name, plan in plans for index, cores in enumerate(plan)]
        return " | ".join(shares) or "no process is bound to cores"


def core_plan(config: Config) -> CorePlan:
    """Cores of every process that computes on the CPU of this machine."""
    available, rollout, learner = available_cores(), config.rollout, config.learner
    if config.run.in_process:
        return CorePlan((available[:1],), (available[:1],))
    everywhere = available if config.run.colocated else None
    plan = plan_cores(
        available,
        rollout.actors_at_most,
        learner.ranks,
        rollout.cores or everywhere,
        learner.cores or everywhere,
    )
    return CorePlan(
        rollout=() if rollout.gpus_per_actor else plan.rollout,
        learner=() if learner.gpus_per_rank else plan.learner,
    )


def generation_cores(config: Config) -> CorePlan:
    """Cores where nothing is trained: the actors have them all."""
    available = available_cores()[:1] if config.run.in_process else available_cores()
    plan = plan_cores(available, config.rollout.actors_at_start, 0, config.rollout.cores)
    return CorePlan((), ()) if config.rollout.gpus_per_actor else plan


def plan_cores(
    available: Sequence[int],
    actors: int,
    ranks: int,
    rollout_cores: Sequence[int] | None = None,
    learner_cores: Sequence[int] | None = None,
) -> CorePlan:
    """Assign `available` cores: the upper half to the learner, the rest to the actors.

    An explicit list for one side overrides that side's half. On one core both share it. Without a learner the actors
    have them all.
    """
    cores = tuple(sorted(available))
    half = max(1, len(cores) // 2) if ranks else 0
    lower, upper = cores[: len(cores) - half] or cores, cores[len(cores) - half :]
    return CorePlan(
        rollout=_split(tuple(rollout_cores) if rollout_cores is not None else lower, actors),
        learner=_split(tuple(learner_cores) if learner_cores is not None else upper, ranks),
    )


def bind_to(cores: Cores) -> None:
    """Keep this process, and those it starts from now on, on these cores, as far as its machine has them. A container
    with a limit of CPU time is left to the system: others have the same numbers in their plans."""
    present = os.sched_getaffinity(0)
    if len(available_cores()) == len(present) and present & set(cores):
        os.sched_setaffinity(0, present & set(cores))


def available_cores() -> Cores:
    """Numbers of the cores that this process may run on, as many of them as the limit of its container pays for."""
    cores, limit = tuple(sorted(os.sched_getaffinity(0))), _cpu_limit()
    return cores if limit is None else cores[: max(1, int(limit))]


def _cpu_limit() -> float | None:
    """CPU seconds a second that this process's container may use; None where nothing limits it."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # cgroup v2, v1
        with suppress(OSError, ValueError):  # not there, or `max`: no limit
            quota, period = (int(word) for file in files for word in (CGROUP / file).read_text().split())
            return quota / period if quota > 0 else None
    return None


def _split(cores: Cores, processes: int) -> tuple[Cores, ...]:
    """Contiguous shares, as even as can be; processes beyond the number of cores share them in turn."""
    if not processes:
        return ()
    if processes >= len(cores):
        return tuple((cores[index % len(cores)],) for index in range(processes))
    bounds = [round(index * len(cores) / processes) for index in range(processes + 1)]
    return tuple(cores[a:b] for a, b in pairwise(bounds))


def _cores(cores: Cores) -> str:
    if not cores:
        return "any core"
    return ("core " if len(cores) == 1 else "cores ") + ",".join(map(str, cores))

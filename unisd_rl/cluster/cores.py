"""Which process gets which CPU cores.

On a machine of few cores, spinning threads of one process starve the others: a two-threaded
learner beside vLLM slows it by an order of magnitude. So every rollout actor and every learner
rank is given cores of its own where there are enough, and shares them evenly where there are not.
Processes that own a GPU need no plan and get none; one on a node without its cores is left to the system.

Where the number of actors may change (`rollout.actors.max`), cores are dealt for the largest number: an engine fixes
its threads when it starts and cannot hand cores over later. So an actor alone has no more cores than one of many. Those
that `python -m unisd_rl.scale` adds beyond the plan share the cores of the first ones, in turn; on a node of their own
they share with nobody. A replaced actor has the cores of the one before it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from unisd_rl.config import Config

Cores = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CorePlan:
    """Cores of each rollout actor and of each learner rank; empty tuples leave it to the system."""

    rollout: tuple[Cores, ...]
    learner: tuple[Cores, ...]

    def of_actor(self, index: int) -> Cores:
        """Cores of the actor in slot `index`, which may lie beyond the plan."""
        return self.rollout[index % len(self.rollout)] if self.rollout else ()

    def describe(self) -> str:
        """One line for the screen, e.g. `rollout 0: core 0 | learner 0: core 1`."""
        parts = [f"{name} {index}: {_cores(cores)}" for name, plan in self._named() for index, cores in enumerate(plan)]
        return " | ".join(parts) or "no process is bound to cores"

    def _named(self) -> tuple[tuple[str, tuple[Cores, ...]], ...]:
        return ("rollout", self.rollout), ("learner", self.learner)


def plan_cores(
    available: Sequence[int],
    actors: int,
    ranks: int,
    rollout_cores: Sequence[int] | None = None,
    learner_cores: Sequence[int] | None = None,
) -> CorePlan:
    """Deal `available` cores: the upper half to the learner, the rest to the actors.

    An explicit list for one side overrides the deal for that side. On one core both share it. Without a learner the
    actors have them all.
    """
    cores = tuple(sorted(available))
    if not ranks:
        return CorePlan(_deal(tuple(rollout_cores) if rollout_cores is not None else cores, actors), ())
    half = max(1, len(cores) // 2)
    for_rollout = tuple(rollout_cores) if rollout_cores is not None else (cores[:-half] or cores)
    for_learner = tuple(learner_cores) if learner_cores is not None else cores[-half:]
    return CorePlan(rollout=_deal(for_rollout, actors), learner=_deal(for_learner, ranks))


def bind_to(cores: Cores) -> None:
    """Keep this process, and those it starts from now on, on these cores, as far as its machine has them."""
    if present := os.sched_getaffinity(0) & set(cores):
        os.sched_setaffinity(0, present)


def _deal(cores: Cores, parties: int) -> tuple[Cores, ...]:
    """Contiguous shares, as even as can be; parties beyond the number of cores share them in turn."""
    if parties >= len(cores):
        return tuple((cores[index % len(cores)],) for index in range(parties))
    bounds = [round(index * len(cores) / parties) for index in range(parties + 1)]
    return tuple(cores[a:b] for a, b in pairwise(bounds))


def _cores(cores: Cores) -> str:
    if not cores:
        return "any core"
    return ("core " if len(cores) == 1 else "cores ") + ",".join(map(str, cores))


def core_plan(config: Config) -> CorePlan:
    """Cores of every process that computes on the CPU of this machine."""
    plan = plan_cores(
        sorted(os.sched_getaffinity(0)),
        config.rollout.actors_at_most,
        config.learner.ranks,
        config.rollout.cores,
        config.learner.cores,
    )
    return CorePlan(
        rollout=() if config.rollout.gpus_per_actor else plan.rollout,
        learner=() if config.learner.gpus_per_rank else plan.learner,
    )


def answering_cores(config: Config) -> CorePlan:
    """Cores where nothing is trained: the actors have them all."""
    plan = plan_cores(sorted(os.sched_getaffinity(0)), config.rollout.actors_at_start, 0, config.rollout.cores)
    return CorePlan((), ()) if config.rollout.gpus_per_actor else plan

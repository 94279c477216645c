"""When rollout actors cannot go on: one sentence that says who, why, and what helps."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from actors.supervisor import Slot, State
from unisd_rl.cluster.logs import log_path
from unisd_rl.errors import RunFailed
from unisd_rl.types import PolicyVersion


def refuse_if_all_fail_alike(slots: Sequence[Slot]) -> None:
    """An engine that starts nowhere, for one reason, will not start at the second attempt either: RunFailed."""
    failures = {re.sub(r"rollout-[\d.]*\d", "rollout", slot.failure or "") for slot in slots}
    if len(failures) == 1 and (failure := slots[0].failure) is not None:
        raise RunFailed(failure)


def refuse_unless_some_follow(slots: Sequence[Slot], version: PolicyVersion) -> None:
    """RunFailed where nobody is at `version`, or on the way to it."""
    for slot in slots:
        if slot.state in (State.WAITING, State.PLACING, State.STARTING) or slot.updating:
            return
    serving = [slot for slot in slots if slot.state is State.SERVING]
    if serving and not any(slot.applied == version for slot in serving):
        raise RunFailed(f"{serving[0].name} was asked for answers of {version} but is at {serving[0].applied}")


def too_late(slot: Slot, task: str, timeout_s: float, run_dir: Path) -> RunFailed:
    """The error of a slot whose process did not do its `task` within `timeout_s` seconds."""
    log = log_path(run_dir, slot.name)
    return RunFailed(f"waited {timeout_s:g} s for {slot.name} to {task}; its log is {log}")


def too_few_places(
    each: Mapping[str, float], free: Mapping[str, float], placed: int, count: int, waited_s: float
) -> str:
    """Only `placed` of `count` actors found room for what `each` asks for in a cluster with so much `free`."""
    wants = ", ".join(f"{amount:g} {name}" for name, amount in each.items())
    there = ", ".join(f"{free.get(name, 0.0):g} {name}" for name in each)
    return (
        f"only {placed} of {count} rollout actors found a place within {waited_s:g} s: each asks one node for {wants}, "
        f"and the cluster has {there} left; add nodes, or lower rollout.actors"
    )

"""Ray as the carrier of processes: `processes.Runtime` in Ray's own words. The cluster must be connected."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, ObjectLostError, RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy
from typing_extensions import override

from unisd_rl.cluster.processes import (
    Call,
    CallLate,
    CallRaised,
    Handle,
    Place,
    ProcessDied,
    ProcessOptions,
    Runtime,
    Unreachable,
)
from unisd_rl.cluster.resources import ray_options
from unisd_rl.errors import PermanentFailure, RunFailed, UserError

_EXPECTED = {kind.__name__: kind for kind in (UserError, RunFailed, PermanentFailure)}
_RAISED = re.compile(rf"^unisd_rl\.errors\.({'|'.join(_EXPECTED)}): ", re.MULTILINE)


@dataclass(frozen=True)
class RayPlace(Place):
    """A placement group."""

    group: PlacementGroup

    @cached_property
    @override
    def ready(self) -> Call[Any]:
        return self.group.ready()

    @override
    def wait(self, timeout_s: float) -> bool:
        return self.group.wait(timeout_s)

    @override
    def give_back(self) -> None:
        remove_placement_group(self.group)


class RayRuntime(Runtime):
    """Processes are Ray actors, calls their object references."""

    unreachable = (RayActorError,)
    lost = (ObjectLostError,)
    separate = True

    @override
    def place(self, bundles: Sequence[Mapping[str, float]]) -> Place:
        return RayPlace(placement_group([dict(bundle) for bundle in bundles], strategy="PACK"))

    @override
    def spawn(self, kind: Callable[..., object], *arguments: Any, options: ProcessOptions) -> Handle:
        how = ray_options(options.resources)
        how |= {"max_restarts": options.restarts, "max_task_retries": options.retries}
        if options.environment:
            how["runtime_env"] = {"env_vars": dict(options.environment)}
        if options.concurrency is not None:
            how["max_concurrency"] = options.concurrency
        if isinstance(options.place, RayPlace):
            how["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                options.place.group, placement_group_bundle_index=options.index
            )
        if options.beside_driver:
            how["scheduling_strategy"] = _driver_node_only()
        return ray.remote(kind).options(**how).remote(*arguments)

    @override
    def wait(self, calls: Sequence[Call[Any]], timeout_s: float, count: int = 1) -> list[Call[Any]]:
        return ray.wait(list(calls), num_returns=count, timeout=timeout_s)[0]

    @override
    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    @override
    def get(self, call: Call[Any], timeout_s: float) -> Any:
        try:
            return ray.get(call, timeout=timeout_s)
        except RayTaskError as error:
            if isinstance(error.cause, RunFailed | UserError):
                raise type(error.cause)(str(error.cause)) from None
            if error.cause is None:
                raise CallRaised(str(error).splitlines()[-1]) from error
            raise CallRaised.of(error.cause) from error
        except GetTimeoutError as error:
            raise CallLate(f"no answer within {timeout_s:g} s") from error
        except ActorDiedError as error:
            if expected := _raised_by_constructor(error):
                raise expected from None
            raise ProcessDied(f"its process died: {_sentence(error)}") from error
        except RayActorError as error:
            raise Unreachable(f"its process cannot be reached: {_sentence(error)}") from error

    @override
    def put(self, value: Any) -> Call[Any]:
        return ray.put(value)

    @override
    def kill(self, handle: Handle, restart: bool = False) -> None:
        ray.kill(handle, no_restart=not restart)

    @override
    def address(self) -> str:
        return ray.util.get_node_ip_address()

    @override
    def nodes(self) -> int:
        return sum(node["Alive"] for node in ray.nodes())

    @override
    def free(self, bundle: Mapping[str, float]) -> dict[str, float]:
        available = ray.available_resources()
        return {name: available.get(name, 0.0) for name in bundle}


def _driver_node_only() -> NodeAffinitySchedulingStrategy:
    """The scheduling strategy of the queue and the weight store: the driver's node and no other.

    What asks for no resource would be put on a rollout node too, and go with it when the run is scaled down. `soft` is
    not enough: Ray takes another node while this one is busy starting a process. Without this node there is no driver
    and no run either.
    """
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _raised_by_constructor(error: ActorDiedError) -> Exception | None:
    """What a constructor raised, if it is an error of ours: of that Ray keeps the traceback's text alone."""
    raised = list(_RAISED.finditer(str(error))) if error.actor_init_failed else []
    return _EXPECTED[raised[-1][1]](str(error)[raised[-1].end() :].strip()) if raised else None


def _sentence(error: RayActorError) -> str:
    """Ray's own first line; of an actor that could not be made the last one, which says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if "creation task" in lines[0] else lines[0]).rstrip(".")


RAY = RayRuntime()
"""The one of this process."""

"""One rollout actor as a process of the cluster: the place it lives in, and calls to it that are never waited for.

A call is looked at until it has ended; what it raises is one sentence that names the actor and its log.

What must be in a rollout actor's environment before anything is imported.

vLLM on the CPU reads all of this at import. Without a plan two engines both bind to the first core.

All of an actor shares its cores, vLLM's process too. Measured on two cores, 3 M parameters, 64 prompts of 40
tokens, a learner computing on the other core: 4,200 to 5,700 tokens/s so. Letting the actor's own process
float gave no more in that case, up to a fifth more beside an idle learner, and took 15 % of a busy
learner's core; vLLM in its usual three processes gave 3,900 to 5,200 on one core.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.report import ActorReport, Pulse
from actors.rollout_actor import ChatAnswer, ChatRequest, RolloutActor
from unisd_rl.cluster.cores import Cores
from unisd_rl.cluster.logs import log_path
from unisd_rl.cluster.resources import ray_options, rollout_bundle
from unisd_rl.config import Config
from unisd_rl.errors import RunFailed
from unisd_rl.transport.weights.store import StoreClient
from unisd_rl.types import PolicyVersion

_QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def actor_environment(config: Config, cores: Cores, model_path: Path) -> dict[str, str]:
    """Environment variables of one rollout actor, for Ray's `runtime_env`."""
    variables = dict(_QUIET)
    if model_path.is_dir():
        variables["HF_HUB_OFFLINE"] = "1"
    if cores:
        variables["OMP_NUM_THREADS"] = str(len(cores))
    if not config.rollout.on_gpu:
        variables |= config.rollout.engine.cpu_environment
    return variables


_CALLS_IN_FLIGHT = 1000  # calls that wait (run, update, answer) occupy a place each
_FETCH_S = 60.0  # what an ended call returned is small, but may lie on another machine
Result = TypeVar("Result")


class ActorFailed(Exception):
    """A rollout actor failed; one sentence, with its name and its log, without a full stop."""


class PendingCall(Generic[Result]):
    """One call to an actor, under way or ended."""

    def __init__(self, reference: "ray.ObjectRef[Result]", name: str, log: Path) -> None:
        self.reference, self._name, self._log = reference, name, log

    def done(self) -> bool:
        """Whether `result` will not wait."""
        return bool(ray.wait([self.reference], timeout=0)[0])

    def succeeded(self) -> bool:
        """Whether it has ended well."""
        if not self.done():
            return False
        try:
            self.result()
        except ActorFailed:
            return False
        return True

    def result(self) -> Result:
        """What the ended call returned.

        Raises:
            ActorFailed: it failed, or its actor died.
        """
        try:
            return ray.get(self.reference, timeout=_FETCH_S)
        except GetTimeoutError as error:
            raise ActorFailed(f"waited {_FETCH_S:g} s for an answer that {self._name} has given") from error
        except RayTaskError as error:
            if isinstance(error.cause, RunFailed):
                raise ActorFailed(str(error.cause)) from error
            raise ActorFailed(f"{self._name} failed: {error.cause or error}; its log is {self._log}") from error
        except RayActorError as error:
            raise ActorFailed(f"{self._name} died; its log is {self._log}: {_reason(error)}") from error


class ActorProcess:
    """A `RolloutActor` and its bundle. One placement group an actor: those cannot grow, and an actor comes and goes.

    The place is asked for at once. One that no node has is what Ray's autoscaler reads as a wish for a node; the
    group waits for it until `end`.
    """

    def __init__(
        self,
        name: str,
        config: Config,
        cores: Cores,
        model_path: Path,
        run_dir: Path,
        queue: ActorHandle | None,
        store: StoreClient,
    ) -> None:
        self.name, self.log = name, log_path(run_dir, name)
        self._config, self._cores, self._model_path = config, cores, model_path
        self._arguments = (name, config, cores, model_path, run_dir, queue, store)
        self._bundle = placement_group([rollout_bundle(config)])
        self.placed: PendingCall[None] = self._call(self._bundle.ready())
        """Ends when the cluster has a place for it."""
        self._handle: ActorHandle | None = None

    @property
    def handle(self) -> ActorHandle:
        """The Ray actor, once it was started."""
        assert self._handle is not None, f"{self.name} was not started"
        return self._handle

    def start(self) -> PendingCall[PolicyVersion]:
        """Begin the process in its place; the call ends with the engine's version when that is ready."""
        options = {
            **ray_options(rollout_bundle(self._config)),
            "runtime_env": {"env_vars": actor_environment(self._config, self._cores, self._model_path)},
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self._bundle),
            "max_concurrency": _CALLS_IN_FLIGHT,
        }
        self._handle = ray.remote(RolloutActor).options(**options).remote(*self._arguments)
        return self._call(self.handle.start.remote())

    def run(self) -> PendingCall[None]:
        """See `RolloutActor.run`."""
        return self._call(self.handle.run.remote())

    def update(self, version: PolicyVersion) -> PendingCall[PolicyVersion]:
        """See `RolloutActor.update`."""
        return self._call(self.handle.update.remote(version))

    def ping(self) -> PendingCall[Pulse]:
        """See `RolloutActor.ping`."""
        return self._call(self.handle.ping.remote())

    def pause_leases(self) -> None:
        """See `RolloutActor.pause_leases`. Takes effect before any call made later."""
        self.handle.pause_leases.remote()

    def resume_leases(self) -> None:
        """See `RolloutActor.resume_leases`."""
        self.handle.resume_leases.remote()

    def answer(self, asked: Sequence[ChatRequest], version: PolicyVersion) -> PendingCall[list[ChatAnswer]]:
        """See `RolloutActor.answer`."""
        return self._call(self.handle.answer.remote(asked, version))

    def report(self) -> PendingCall[ActorReport]:
        """See `RolloutActor.report`."""
        return self._call(self.handle.report.remote())

    def drain(self, limit_s: float) -> PendingCall[ActorReport]:
        """See `RolloutActor.drain`."""
        return self._call(self.handle.drain.remote(limit_s))

    def close(self) -> "PendingCall[None] | None":
        """See `RolloutActor.close`; None for one that was not started."""
        return None if self._handle is None else self._call(self._handle.close.remote())

    def end(self) -> None:
        """Kill what is there and give the place back; the place's end kills also a process that answers nobody."""
        if self._handle is not None:
            ray.kill(self._handle)
        remove_placement_group(self._bundle)

    def _call(self, reference: "ray.ObjectRef[Any]") -> PendingCall[Any]:
        return PendingCall(reference, self.name, self.log)


def _reason(error: RayActorError) -> str:
    """Ray's own first line; of an actor that could not be made the last one, which says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if "creation task" in lines[0] else lines[0]

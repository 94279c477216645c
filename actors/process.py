"""One rollout actor as a process of the cluster: its place, its environment, and calls to it that nobody waits for."""

from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from actors.rollout_actor import ActorSpec, RolloutActor
from unisd_rl.cluster.cores import BRIEF_SPINNING, Cores
from unisd_rl.cluster.processes import Call, CallFailed, Handle, ProcessOptions
from unisd_rl.cluster.resources import rollout_bundle
from unisd_rl.cluster.runtime import runtime
from unisd_rl.cluster.waiting import done, fetch
from unisd_rl.config import Config
from unisd_rl.errors import PermanentFailure, RunFailed, UserError
from unisd_rl.storage.logs import log_path
from unisd_rl.types import PolicyVersion

_CALLS_IN_FLIGHT = 1000  # each call that waits (run, update, answer) counts as one
_COMMON_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class ActorFailed(Exception):
    """A rollout actor failed; one sentence, with its name and its log, without a full stop.

    `permanent`: what ends the run, since the next process in its place would fail of the same; None otherwise.
    """

    def __init__(self, what: str, permanent: type[RunFailed | UserError] | None = None) -> None:
        super().__init__(what)
        self.permanent = permanent


class PendingCall(Generic[Result]):
    """One call to an actor, under way or done. Asking never waits; what it raises names the actor and its log."""

    def __init__(self, reference: Call[Result], name: str, log: Path) -> None:
        self.reference, self._name, self._log = reference, name, log
        self._ended: bool | None = None
        """None: to be asked. True stays; False holds within a block of `asked_together`."""

    def done(self) -> bool:
        """Whether it has ended, well or not: `result` will not wait."""
        if self._ended is None:
            self._ended = done(self.reference) or None
        return bool(self._ended)

    def result(self) -> Result:
        """What the call returned, which must be done.

        Raises:
            ActorFailed: it failed, or its actor died.
        """
        try:
            return fetch(self.reference)
        except (PermanentFailure, UserError) as error:
            raise ActorFailed(str(error), type(error)) from error
        except RunFailed as error:
            raise ActorFailed(str(error), _permanent()) from error
        except CallFailed as error:
            what = f"{self._name} stopped: {error}; its log is {self._log}"
            raise ActorFailed(what, _permanent()) from error


@contextmanager
def asked_together(calls: Sequence[PendingCall[Any]]) -> Iterator[None]:
    """Within this block the `done` of these calls answers as of its beginning, when all were asked at once.

    Asked one by one, some hundred actors cost the driver most of its time.
    """
    pending = [call for call in calls if not call._ended]
    if pending:
        ended = set(runtime().wait([call.reference for call in pending], 0.0, count=len(pending)))
        for call in pending:
            call._ended = call.reference in ended
    try:
        yield
    finally:
        for call in pending:
            call._ended = call._ended or None


def _permanent() -> type[RunFailed] | None:
    return None if runtime().separate else RunFailed


class ActorProcess:
    """A `RolloutActor` and its place: one an actor, since placement groups cannot grow, and actors come and go.

    The place is asked for at once. One that no node has room for is what Ray's autoscaler reads as a wish for a node;
    it waits for one until `end`.
    """

    def __init__(self, name: str, cores: Cores, spec: ActorSpec) -> None:
        self.name, self.log = name, log_path(spec.run_dir, name)
        self._cores, self._spec = cores, spec
        self._place = runtime().place([rollout_bundle(spec.config)])
        self._handle: Handle | None = None
        self.placed: PendingCall[None] = self._pending(self._place.ready)
        """Done when the cluster has room for it."""

    @property
    def handle(self) -> Handle:
        """The process, once it was started."""
        assert self._handle is not None, f"{self.name} was not started"
        return self._handle

    def start(self) -> PendingCall[PolicyVersion]:
        """Begin the process in its place; the call returns the engine's version when that is ready."""
        config = self._spec.config
        options = ProcessOptions(
            rollout_bundle(config),
            place=self._place,
            environment=actor_environment(config, self._cores, self._spec.model_path),
            concurrency=_CALLS_IN_FLIGHT,
            log=self.log,
        )
        self._handle = runtime().spawn(RolloutActor, self.name, self._cores, self._spec, options=options)
        return self.call(RolloutActor.start)

    @overload
    def call(
        self,
        method: Callable[Concatenate[RolloutActor, Arguments], Coroutine[Any, Any, Result]],
        *arguments: Arguments.args,
        **named: Arguments.kwargs,
    ) -> PendingCall[Result]: ...

    @overload
    def call(
        self,
        method: Callable[Concatenate[RolloutActor, Arguments], Result],
        *arguments: Arguments.args,
        **named: Arguments.kwargs,
    ) -> PendingCall[Result]: ...

    def call(self, method: Callable[..., Any], *arguments: Any, **named: Any) -> PendingCall[Any]:
        """Call a method of the actor, e.g. `call(RolloutActor.update, version)`. It begins before any later call."""
        return self._pending(getattr(self.handle, method.__name__).remote(*arguments, **named))

    def end(self) -> None:
        """Kill what is there and give its place back, which kills also a process that answers nobody."""
        if self._handle is not None:
            runtime().kill(self._handle)
        self._place.give_back()

    def _pending(self, reference: Call[Any]) -> PendingCall[Any]:
        return PendingCall(reference, self.name, self.log)


def actor_environment(config: Config, cores: Cores, model_path: Path) -> dict[str, str]:
    """Environment variables of one rollout actor, vLLM reads them when it is imported.

    All of an actor shares its cores, vLLM's process too. Without a plan two engines would both bind to the first core.
    Measured on two cores, 3 M parameters, 64 prompts of 40 tokens, a learner computing on the other core: 4,200 to
    5,700 tokens/s so. Letting the actor's own process float gave no more in that case, up to a fifth more beside an
    idle learner, and took 15 % of a busy learner's core; vLLM in its usual three processes gave 3,900 to 5,200 on one
    core.
    """
    variables = dict(_COMMON_ENVIRONMENT)
    if model_path.is_dir():
        variables["HF_HUB_OFFLINE"] = "1"
    if cores:
        variables["OMP_NUM_THREADS"] = str(len(cores))
    if config.run.colocated:  # threads that wait for long would do so in the learner's turn, on its cores
        variables |= BRIEF_SPINNING
    if not config.rollout.on_gpu:
        variables |= config.rollout.engine.cpu_environment
    return variables

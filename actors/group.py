"""All rollout actors of a run, as the driver sees them: started together, served by one queue and one store.

```
start -> broadcast(version 0) -> run -> { broadcast(version) | answer | check } ... -> close
```

Broadcasts go out in the background, one call an actor, so a stuck actor does not hold the others;
`check` notices it. Every wait has a timeout, and a failure is one sentence that names the actor and its log.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.environment import actor_environment
from actors.report import ActorReport
from actors.rollout_actor import Answered, Chat, RolloutActor
from unisd_rl.config import Config
from unisd_rl.errors import RunFailed, UserError
from unisd_rl.logs import log_path
from unisd_rl.placement import CorePlan, Cores
from unisd_rl.requirements import ray_options, rollout_bundle
from unisd_rl.transport.weights.manifest import label
from unisd_rl.transport.weights.store import StoreClient
from unisd_rl.types import Generation, PolicyVersion, Sampling, Tokens

_CALL_TIMEOUT_S = 60.0  # for calls that only ask
_CLOSE_TIMEOUT_S = 20.0
_POLL_S = 1.0  # how often a wait looks at what goes on in the background
_FETCH_S = 60.0  # what an ended call returned is small, but may lie on another machine
_CALLS_IN_FLIGHT = 1000  # calls that wait (run, update, wait_for) occupy a place each


@dataclass(slots=True)
class _Update:
    """One broadcast to one actor, not known to have ended."""

    reference: "ray.ObjectRef[PolicyVersion]"
    version: PolicyVersion
    deadline_s: float


@dataclass(slots=True)
class _Member:
    """One actor, the bundle it lives in, and what it was asked to do."""

    name: str
    log: Path
    bundle: PlacementGroup
    handle: ActorHandle
    running: "ray.ObjectRef[None] | None" = None
    updates: list[_Update] = field(default_factory=list)


class RolloutGroup:
    """`config.rollout.actors` rollout actors; see the module's drawing. For one thread, the driver's."""

    def __init__(
        self,
        config: Config,
        plan: CorePlan,
        model_path: Path,
        run_dir: Path,
        queue: ActorHandle | None,
        store: StoreClient,
    ) -> None:
        """Nothing is started yet. Without a queue the actors only answer; `run` is then a mistake."""
        self._config, self._plan, self._model_path = config, plan, model_path
        self._run_dir, self._queue, self._store = run_dir, queue, store
        self._members: list[_Member] = []

    @property
    def handles(self) -> tuple[ActorHandle, ...]:
        """The Ray actors, in order: whom a `TrainerEnginePublisher` sends to."""
        return tuple(member.handle for member in self._members)

    def start(self, timeout_s: float) -> None:
        """Place all actors and start their engines, side by side.

        Raises:
            UserError: the cluster does not offer what an actor asks for within `run.cluster_timeout_s`.
            RunFailed: an engine does not start, or not within `timeout_s` seconds.
        """
        bundles = self._place()
        for index, bundle in enumerate(bundles):
            cores = self._plan.rollout[index] if index < len(self._plan.rollout) else ()
            self._members.append(self._spawn(f"rollout-{index}", bundle, cores))
        started = [member.handle.start.remote() for member in self._members]
        self._results(started, timeout_s, "to start its engine (run.start_timeout_s)")

    def run(self) -> None:
        """Let the actors serve the queue, in the background, until `close`."""
        for member in self._members:
            member.running = member.handle.run.remote()

    def broadcast(self, version: PolicyVersion) -> None:
        """Ask every actor to apply the weights of `version` when they are in the store; returns at once."""
        deadline_s = time.monotonic() + self._config.weights.timeout_s
        for member in self._members:
            reference = member.handle.update.remote(version)
            member.updates.append(_Update(reference, version, deadline_s))

    def wait_for(self, version: PolicyVersion, timeout_s: float) -> None:
        """Return when every actor has applied `version` or a later one.

        Raises:
            RunFailed: an update failed, or `timeout_s` seconds have passed; names the actor.
        """
        waits = [member.handle.wait_for.remote(version) for member in self._members]
        self._results(waits, timeout_s, f"to apply {label(version)}")

    def answers(self, prompts: Sequence[Chat], sampling: Sampling, version: PolicyVersion) -> list[Answered]:
        """Everything about the answer to each chat, in order, all by `version`; the queue is not served meanwhile.

        The chats are dealt to the actors in turn, with leases paused on all of them until all have answered. Chat i is
        sampled with `sampling.seed` + i, whoever answers it.
        """
        count, timeout_s = len(self._members), self._config.run.step_timeout_s
        asked = [(chat, _seeded(sampling, index)) for index, chat in enumerate(prompts)]
        self._results([m.handle.pause_leases.remote() for m in self._members], _CALL_TIMEOUT_S, "to pause its leases")
        try:
            shares = [
                member.handle.answer.remote(asked[index::count], version) for index, member in enumerate(self._members)
            ]
            answered = self._results(shares, timeout_s, "to answer (run.step_timeout_s)")
        finally:
            for member in self._members:
                member.handle.resume_leases.remote()
        return [answered[index % count][index // count] for index in range(len(prompts))]

    def answer(
        self, prompts: Sequence[Chat], sampling: Sampling, version: PolicyVersion
    ) -> list[tuple[str, Generation]]:
        """As `answers`, the text and the tokens only."""
        return [(answer.text, answer.generation) for answer in self.answers(prompts, sampling, version)]

    def sample(
        self, prompts: Sequence[Chat], sampling: Sampling, version: PolicyVersion
    ) -> list[tuple[Tokens, Generation]]:
        """As `answers`, the tokens of prompt and answer only."""
        return [(answer.prompt_tokens, answer.generation) for answer in self.answers(prompts, sampling, version)]

    def reports(self) -> tuple[ActorReport, ...]:
        """What each actor counted, in order."""
        asked = [member.handle.report.remote() for member in self._members]
        return tuple(self._results(asked, _CALL_TIMEOUT_S, "to report"))

    def check(self) -> None:
        """Look at everything that goes on in the background; never waits.

        Raises:
            RunFailed: an actor died, its engine did, an update failed, or is overdue.
        """
        for member in self._members:
            if member.running is not None and _ended(member.running):
                _result(member, member.running)
            for update in tuple(member.updates):
                if _ended(update.reference):
                    _result(member, update.reference)
                    member.updates.remove(update)
                elif time.monotonic() > update.deadline_s:
                    raise RunFailed(
                        f"{member.name} did not apply {label(update.version)} within weights.timeout_s = "
                        f"{self._config.weights.timeout_s:g} s; its log is {member.log}"
                    )

    def close(self) -> None:
        """End all actors and give their places back. Whatever is left of one is killed."""
        closing = [member.handle.close.remote() for member in self._members]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_TIMEOUT_S)
        for member in self._members:
            ray.kill(member.handle)
            remove_placement_group(member.bundle)
        self._members = []

    def _place(self) -> list[PlacementGroup]:
        """One bundle an actor: placement groups cannot grow, and an actor is the unit that comes and goes."""
        each, count = rollout_bundle(self._config), self._config.rollout.actors
        bundles = [placement_group([each]) for _ in range(count)]
        ready, waiting = ray.wait(
            [bundle.ready() for bundle in bundles], num_returns=count, timeout=self._config.run.cluster_timeout_s
        )
        if waiting:
            for bundle in bundles:
                remove_placement_group(bundle)
            raise UserError(_lacking(each, len(ready), count, self._config.run.cluster_timeout_s))
        return bundles

    def _spawn(self, name: str, bundle: PlacementGroup, cores: Cores) -> _Member:
        each = rollout_bundle(self._config)
        options = {
            **ray_options(each),
            "runtime_env": {"env_vars": actor_environment(self._config, cores, self._model_path)},
            "scheduling_strategy": PlacementGroupSchedulingStrategy(bundle),
            "max_concurrency": _CALLS_IN_FLIGHT,
        }
        handle = (
            ray.remote(RolloutActor)
            .options(**options)
            .remote(name, self._config, cores, self._model_path, self._run_dir, self._queue, self._store)
        )
        return _Member(name, log_path(self._run_dir, name), bundle, handle)

    def _results(self, references: "Sequence[ray.ObjectRef[Any]]", timeout_s: float, what: str) -> list[Any]:
        """One result per member, in order. Whichever fails first is told, also if it is something in the background."""
        deadline_s = time.monotonic() + timeout_s
        waiting = dict(zip(references, self._members, strict=True))
        while waiting:
            left_s = deadline_s - time.monotonic()
            ended, _ = ray.wait(list(waiting), num_returns=1, timeout=min(_POLL_S, max(0.0, left_s)))
            for reference in ended:
                _result(waiting.pop(reference), reference)
            if waiting and left_s <= 0.0:
                slow = next(iter(waiting.values()))
                raise RunFailed(f"waited {timeout_s:g} s for {slow.name} {what}; its log is {slow.log}")
            self.check()
        return [_result(member, reference) for member, reference in zip(self._members, references, strict=True)]


def _seeded(sampling: Sampling, index: int) -> Sampling:
    return sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + index)


def _ended(reference: "ray.ObjectRef[Any]") -> bool:
    return bool(ray.wait([reference], timeout=0)[0])


def _result(member: _Member, reference: "ray.ObjectRef[Any]") -> Any:
    """What an ended call of this member returned; its failure as one sentence."""
    try:
        return ray.get(reference, timeout=_FETCH_S)
    except GetTimeoutError as error:
        raise RunFailed(f"waited {_FETCH_S:g} s for an answer that {member.name} has given: {error}") from error
    except RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        if isinstance(cause, RunFailed):
            raise cause from error
        raise RunFailed(f"{member.name} failed: {cause}; its log is {member.log}") from error
    except RayActorError as error:
        raise RunFailed(f"{member.name} died; its log is {member.log}: {error}") from error


def _lacking(each: Mapping[str, float], placed: int, count: int, waited_s: float) -> str:
    wants = ", ".join(f"{amount:g} {name}" for name, amount in each.items())
    free = ray.available_resources()
    there = ", ".join(f"{free.get(name, 0.0):g} {name}" for name in each)
    return (
        f"only {placed} of {count} rollout actors found a place within {waited_s:g} s: each asks one node for {wants}, "
        f"and the cluster has {there} left; add nodes, or lower rollout.actors"
    )

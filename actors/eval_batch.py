"""The requests of an evaluation, assigned to actors in turn; what a dead one leaves unanswered is assigned again."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from actors.process import ActorFailed, ActorProcess, PendingCall
from actors.rollout_actor import Chat, ChatAnswer, ChatRequest, ChoiceRequest, RolloutActor
from actors.supervisor import ActorSupervisor, State
from unisd_rl.errors import RunFailed
from unisd_rl.types import OnWait, PolicyVersion, Sampling


def chat_requests(chats: Sequence[Chat], sampling: Sampling) -> list[ChatRequest]:
    """One request a chat. Chat i is sampled with `sampling.seed` + i, whoever answers it."""
    if sampling.seed is None:
        return [(chat, sampling) for chat in chats]
    return [(chat, replace(sampling, seed=sampling.seed + index)) for index, chat in enumerate(chats)]


@dataclass(frozen=True, slots=True)
class _Assignment:
    """What one process was asked: the indices of its requests."""

    supervisor: ActorSupervisor
    process: ActorProcess
    indices: list[int]
    call: PendingCall[list[ChatAnswer]]
    deadline_s: float


class EvaluationDispatch:
    """`requests`, all to be answered by `version`. An actor has `timeout_s` seconds for what it is assigned."""

    def __init__(
        self,
        requests: Sequence[ChatRequest | ChoiceRequest],
        version: PolicyVersion,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests, self._version, self._timeout_s, self._clock = requests, version, timeout_s, clock
        self._unassigned = list(range(len(requests)))
        self._assignments: list[_Assignment] = []
        self._answers: dict[int, ChatAnswer] = {}

    @property
    def unassigned(self) -> bool:
        """Whether some requests are with nobody."""
        return bool(self._unassigned)

    @property
    def complete(self) -> bool:
        """Whether every request is answered."""
        return len(self._answers) == len(self._requests)

    @property
    def awaited(self) -> list[PendingCall[list[ChatAnswer]]]:
        """The calls whose end brings this on."""
        return [assignment.call for assignment in self._assignments]

    def answers(self) -> list[ChatAnswer]:
        """All answers, in the order of the requests."""
        return [self._answers[index] for index in range(len(self._requests))]

    def advance(self, supervisors: Sequence[ActorSupervisor], on_wait: OnWait) -> None:
        """Take what has come and assign what is with nobody. `on_wait` is called while nobody has the weights.

        Raises:
            RunFailed: nobody is at the version or on the way to it, or an actor failed more often than it may.
        """
        self.collect()
        self.assign([actor for actor in supervisors if actor.state is State.SERVING and actor.applied == self._version])
        if self.unassigned:
            on_wait()
            self._check_reachable(supervisors)

    def assign(self, able: Sequence[ActorSupervisor]) -> None:
        """Give what is with nobody to these actors in turn, all of which serve and are at the version."""
        for turn, supervisor in enumerate(able):
            indices = self._unassigned[turn :: len(able)]
            if indices:
                process = supervisor.process
                assert process is not None, "an actor that serves has a process"
                requests = [self._requests[index] for index in indices]
                call = process.call(RolloutActor.answer, requests, self._version)
                deadline_s = self._clock() + self._timeout_s
                self._assignments.append(_Assignment(supervisor, process, indices, call, deadline_s))
        if able:
            self._unassigned = []

    def collect(self) -> None:
        """Take what has come. What processes were assigned that failed, are gone or take too long is with nobody again.

        Raises:
            RunFailed: an actor failed more often than it may.
        """
        for assignment in tuple(self._assignments):
            process = assignment.process
            if assignment.supervisor.process is not process:
                self._return(assignment)
            elif assignment.call.done():
                self._take(assignment)
            elif self._clock() > assignment.deadline_s:
                late = f"did not answer within run.step_timeout_s = {self._timeout_s:g} s"
                self._return(assignment)
                assignment.supervisor.fail(f"{process.name} {late}; its log is {process.log}")

    def _check_reachable(self, supervisors: Sequence[ActorSupervisor]) -> None:
        for actor in supervisors:
            if actor.updating or actor.state in (State.WAITING, State.PLACING, State.STARTING):
                return  # it may yet come to the version
        serving = [actor for actor in supervisors if actor.state is State.SERVING]
        if serving and not any(actor.applied == self._version for actor in serving):
            asked = serving[0]
            raise RunFailed(f"{asked.name} was asked for answers of {self._version} but is at {asked.applied}")

    def _take(self, assignment: _Assignment) -> None:
        try:
            answers = assignment.call.result()
        except ActorFailed as failure:
            self._return(assignment)
            assignment.supervisor.fail(str(failure))
            return
        self._answers |= dict(zip(assignment.indices, answers, strict=True))
        self._assignments.remove(assignment)

    def _return(self, assignment: _Assignment) -> None:
        self._assignments.remove(assignment)
        self._unassigned = sorted([*self._unassigned, *assignment.indices])

"""The prompts of an evaluation, dealt to actors in turn; what a dead one leaves unanswered is dealt again."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actors.process import ActorFailed, ActorProcess, PendingCall
from actors.rollout_actor import ChatAnswer, ChatRequest
from actors.supervisor import ActorSupervisor
from unisd_rl.types import PolicyVersion


@dataclass(frozen=True, slots=True)
class _Assignment:
    """What one process was asked: the places of its prompts in the whole."""

    slot: ActorSupervisor
    process: ActorProcess
    places: list[int]
    call: PendingCall[list[ChatAnswer]]
    deadline_s: float


class EvaluationDispatch:
    """`asked` in order, all to be answered by `version`. An actor has `timeout_s` seconds for its share."""

    def __init__(
        self,
        asked: Sequence[ChatRequest],
        version: PolicyVersion,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._asked, self._version, self._timeout_s, self._clock = asked, version, timeout_s, clock
        self._open = list(range(len(asked)))
        self._shares: list[_Assignment] = []
        self._answers: dict[int, ChatAnswer] = {}

    @property
    def unassigned(self) -> bool:
        """Whether some prompts are with nobody."""
        return bool(self._open)

    @property
    def complete(self) -> bool:
        """Whether every prompt is answered."""
        return len(self._answers) == len(self._asked)

    @property
    def awaited(self) -> list[PendingCall[list[ChatAnswer]]]:
        """The calls whose end brings this on."""
        return [share.call for share in self._shares]

    def answers(self) -> list[ChatAnswer]:
        """All answers, in the order of the prompts."""
        return [self._answers[place] for place in range(len(self._asked))]

    def assign(self, able: Sequence[ActorSupervisor]) -> None:
        """Give what is with nobody to these slots, all of which serve and are at the version."""
        for turn, slot in enumerate(able):
            places = self._open[turn :: len(able)]
            if places:
                assert slot.process is not None, "a slot that serves has a process"
                call = slot.process.answer([self._asked[place] for place in places], self._version)
                self._shares.append(_Assignment(slot, slot.process, places, call, self._clock() + self._timeout_s))
        if able:
            self._open = []

    def collect(self) -> None:
        """Take what has come. Shares of processes that failed, are gone or take too long are with nobody again.

        Raises:
            RunFailed: a slot failed more often than it may.
        """
        for share in tuple(self._shares):
            if share.slot.process is not share.process:
                self._return(share)
            elif share.call.done():
                self._take(share)
            elif self._clock() > share.deadline_s:
                late = f"did not answer within run.step_timeout_s = {self._timeout_s:g} s"
                self._fail(share, f"{share.process.name} {late}; its log is {share.process.log}")

    def _take(self, share: _Assignment) -> None:
        try:
            answers = share.call.result()
        except ActorFailed as failure:
            self._fail(share, str(failure))
            return
        self._answers |= dict(zip(share.places, answers, strict=True))
        self._shares.remove(share)

    def _fail(self, share: _Assignment, what: str) -> None:
        self._return(share)
        share.slot.fail(what)

    def _return(self, share: _Assignment) -> None:
        self._shares.remove(share)
        self._open = sorted([*self._open, *share.places])

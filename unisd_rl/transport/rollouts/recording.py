"""The recording of a run: its rollouts, read again step by step from its ledger, to be trained on another time."""

from unisd_rl.errors import UserError
from unisd_rl.storage.recorded_run import RecordedRun
from unisd_rl.transport.rollouts.batch import split_for_ranks
from unisd_rl.transport.rollouts.ledger import Ledger


class Recording:
    """The steps of a run, from 0 on, of which no prompt is missing."""

    def __init__(self, run: RecordedRun, batch_size: int, group_size: int, steps: int) -> None:
        """Read every row of at most `steps` steps once. `group_size`: answers per prompt.

        Raises:
            UserError: a segment is damaged, rollouts were thrown away, or not even the first step is whole.
        """
        self._location, self._batch_size, self._group_size = run.ledger, batch_size, group_size
        self._quarantined = run.quarantined()
        try:
            self._ledger = Ledger(self._location, fsync=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"the index of {self._location} is damaged: {error}") from None
        if gone := self._ledger.discarded.numbers.end:
            raise UserError(
                f"{self._location} no longer has the rollouts of prompts below {gone}, which the run threw away "
                "(rollout.keep): replay a run that kept all"
            )
        if missing := self._missing(0):
            raise UserError(
                f"{self._location} ends before the first step is whole: {len(missing)} of its {self._batch_size} "
                f"prompts are not there, {missing[0]} first; there is nothing to train on"
            )
        self.steps = next((step for step in range(steps) if self._missing(step)), steps)
        self.rollouts = sum(len(self.shards(step, 1)[1]) for step in range(self.steps))

    def shards(self, step: int, ranks: int) -> tuple[tuple[bytes, ...], list[int]]:
        """What each rank trains on in this step, and the prompt numbers of all of it, in order.

        Raises:
            UserError: the segment is damaged.
        """
        numbers = [number for number in self._numbers(step) if number not in self._quarantined]
        try:
            return split_for_ranks(self._ledger.read(numbers), ranks, self._group_size), numbers
        except (OSError, ValueError) as error:
            raise UserError(f"{error}; the rollouts of step {step} cannot be trained on again") from None

    def _missing(self, step: int) -> list[int]:
        return [n for n in self._numbers(step) if n not in self._ledger and n not in self._quarantined]

    def _numbers(self, step: int) -> range:
        return range(step * self._batch_size, (step + 1) * self._batch_size)

"""The learner rolls back (decision 7), and a run is taken up again: one and the same thing.

```
 LearnerLost --> ranks closed, started again --> newest whole checkpoint c (step c; none: the initial model, step 0)
                 queue: lineage + 1, prompts from c on are fed again, stored ones without an actor
                 publish (lineage + 1, c) --> actors give back what is in flight, then apply it
             --> the work that was under way, from version c on
```

What was stored is not generated again; what was trained on since c is trained on again, and the lineage tells the two
apart.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from learner.group import LearnerLost, NoRoom
from unisd_rl.cluster.retry import RestartPolicy
from unisd_rl.cluster.waiting import pause
from unisd_rl.driver.build import Parts
from unisd_rl.driver.publish import publish_checked
from unisd_rl.errors import RunFailed
from unisd_rl.storage.checkpoints import latest_valid
from unisd_rl.types import INITIAL_VERSION, Failure, PolicyVersion, Recovery

Result = TypeVar("Result")


class LearnerRecovery:
    """Starts the learner again as often as `config.faults` allows, and as long as it gets any further."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._restarts = RestartPolicy("learner", parts.config.faults)

    def begin(self, resumed: bool) -> PolicyVersion:
        """Give the learner, the queue and the actors the version that training starts from, and say which it is."""
        try:
            return self._resume() if resumed else _from_the_start(self._parts)
        except LearnerLost as lost:
            return self._roll_back(lost)

    def through(self, version: PolicyVersion, work: Callable[[PolicyVersion], Result]) -> Result:
        """Do `work` from `version` on; whenever the learner is lost meanwhile, from the version it rolled back to.

        Raises:
            RunFailed: the learner was lost more often than `faults.max_restarts`, within the window or without a step
                further, or something else failed.
        """
        while True:
            try:
                return work(version)
            except LearnerLost as lost:
                version = self._roll_back(lost)

    def _resume(self) -> PolicyVersion:
        """Told as a fault too: whatever an earlier driver was waiting for when it ended works again after it."""
        parts, started = self._parts, time.monotonic()
        parts.report(Failure("driver", "the run ended before its end and is taken up again", 0, 0.0))
        version = take_up(parts)
        parts.report(Recovery("driver", time.monotonic() - started))
        return version

    def _roll_back(self, lost: RunFailed | NoRoom) -> PolicyVersion:
        parts = self._parts

        def restart() -> PolicyVersion:
            parts.learners.start(parts.config.run.start_timeout_s)
            return take_up(parts)

        def back_off(wait_s: float) -> None:
            parts.learners.close()
            pause(wait_s, parts.rollouts.check)

        progress = parts.directory.steps_logged
        return self._restarts.recover(lost, restart, (LearnerLost, NoRoom), parts.report, back_off, progress)


def take_up(parts: Parts) -> PolicyVersion:
    """From the newest whole checkpoint of the surviving chain, in a new lineage; the learner has the initial model.

    Actors that need not follow the student keep the initial weights, of whatever lineage it is: who has none gets them
    now, while the learner has them.
    """
    lineage = parts.queue.lineage() + 1  # asked first: it answers when no queue of a killed driver writes any more
    checkpoint = latest_valid(parts.directory.checkpoints_folder, parts.directory.rollbacks(), parts.report)
    step = checkpoint.state.version if checkpoint else 0
    version = PolicyVersion(lineage, step)
    on_policy = parts.config.rollout.sources.on_policy
    if not on_policy and parts.store.version is None:
        publish_checked(parts, INITIAL_VERSION)
    if checkpoint:
        parts.learners.load(checkpoint.path, step)
    parts.queue.roll_back(version.lineage, step)
    if on_policy:
        publish_checked(parts, version)
    parts.screen.say(f"lineage {version.lineage}: going on from {checkpoint.path if checkpoint else 'the beginning'}")
    return version


def _from_the_start(parts: Parts) -> PolicyVersion:
    publish_checked(parts, INITIAL_VERSION)
    return INITIAL_VERSION

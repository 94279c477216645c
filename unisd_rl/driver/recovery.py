"""Recovery of the learner (decision 7): it rolls back to a checkpoint. A run that is resumed does the same.

```
 LearnerLost --> ranks closed, started again --> newest valid checkpoint c (step c; none: the initial model, step 0)
                 queue: lineage + 1, prompts from c on are fed again, stored ones without an actor
                 publish (lineage + 1, c) --> actors give back what is in flight, then apply it
             --> the work that was interrupted, from version c on
```

What was stored is not generated again; what was trained on since c is trained on again, and the lineage tells the two
apart.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from learner.group import InsufficientResources, LearnerLost
from unisd_rl.cluster.retry import RestartPolicy
from unisd_rl.cluster.waiting import pause
from unisd_rl.driver.build import Run
from unisd_rl.driver.publish import publish_and_verify
from unisd_rl.storage.checkpoints import latest_valid
from unisd_rl.storage.fork import fork_of
from unisd_rl.types import INITIAL_VERSION, Failure, PolicyVersion, Recovery, Resumption

Result = TypeVar("Result")


class LearnerRecovery:
    """Restarts a lost learner from its newest checkpoint, as often as `config.faults` allows.

    `version` is what training goes on from: that of the start, then that of the last rollback.
    """

    def __init__(self, run: Run, version: PolicyVersion = INITIAL_VERSION) -> None:
        self._run, self.version = run, version
        self._restarts = RestartPolicy("learner", run.config.faults)

    def start_or_resume(self, resumed: bool) -> None:
        """Bring learner, queue and actors to the initial version or, where the run is resumed, to its checkpoint's.

        Raises:
            RunFailed: see `run_with_recovery`.
        """
        try:
            if resumed:
                self.version = self._resume()
            else:
                load_fork(self._run)
                publish_and_verify(self._run, INITIAL_VERSION)
        except LearnerLost as lost:
            self.version = self._roll_back(lost)

    def run_with_recovery(self, work: Callable[[PolicyVersion], Result]) -> Result:
        """What `work(version)` returns; whenever the learner is lost meanwhile, it is called again from the checkpoint.

        Raises:
            RunFailed: the learner was lost more often than `faults.max_restarts`, within the window or without another
                step, or something else failed.
        """
        while True:
            try:
                return work(self.version)
            except LearnerLost as lost:
                self.version = self._roll_back(lost)

    def _resume(self) -> PolicyVersion:
        """Unless the earlier driver was asked to stop, its end is reported as a failure: what it was waiting for then
        has its recovery here."""
        run, started = self._run, time.monotonic()
        stopped = run.directory.stopped_before
        if not stopped:
            run.report(Failure("driver", "the run ended before its last step and is resumed", 0, 0.0))
        version = resume_from_checkpoint(run)
        end = Resumption if stopped else Recovery
        run.report(end("driver", time.monotonic() - started))
        return version

    def _roll_back(self, lost: LearnerLost) -> PolicyVersion:
        run = self._run

        def restart() -> PolicyVersion:
            run.learners.start(run.config.run.start_timeout_s)
            return resume_from_checkpoint(run)

        def back_off(wait_s: float) -> None:
            run.learners.close()
            pause(wait_s, run.rollouts.check_beside_learner)

        retryable = (LearnerLost, InsufficientResources)
        with run.track.span("recovering the learner"):
            return self._restarts.recover(lost, restart, retryable, run.report, back_off, run.directory.steps_logged)


def load_fork(run: Run) -> None:
    """Give the learner, just started, the state that a fork begins with: it is version 0 of this run."""
    if (checkpoint := fork_of(run.config, run.directory.path)) is not None:
        run.learners.load(checkpoint.path, checkpoint.state.version)


def resume_from_checkpoint(run: Run) -> PolicyVersion:
    """Begin a new lineage at the newest valid checkpoint; the learner, just started, has the initial model.

    Actors that do not follow the student keep the initial weights, of whatever lineage: an actor that has none gets
    them now, while the learner still has them.
    """
    lineage = run.queue.lineage() + 1  # asked first: it answers when no queue of a killed driver writes any more
    checkpoint = latest_valid(run.directory.checkpoints_folder, run.directory.rollbacks(), run.report)
    version = PolicyVersion(lineage, checkpoint.state.version if checkpoint else 0)
    on_policy = run.config.rollout.sources.on_policy
    load_fork(run)
    if not on_policy and run.store.version is None:
        publish_and_verify(run, INITIAL_VERSION)
    if checkpoint:
        run.learners.load(checkpoint.path, version.number)
    run.queue.roll_back(version.lineage, version.number)
    if on_policy:
        publish_and_verify(run, version)
    source = checkpoint.path if checkpoint else run.config.run.forked_from or "the initial model"
    run.console.print(f"resumed from {source} (lineage {version.lineage})")
    return version

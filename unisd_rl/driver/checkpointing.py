"""Checkpoints of a run: written by the learner while the actors go on, verified here; only then are old ones removed.

A full disk costs a checkpoint, not the run: the old ones stay. Only the last checkpoint and the results of evaluations
must be written: those are tried again.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from learner.group import CheckpointNotWritten
from unisd_rl.cluster.retry import RestartPolicy
from unisd_rl.cluster.waiting import pause
from unisd_rl.driver.build import Run
from unisd_rl.reporting.model_card import write_model_card
from unisd_rl.storage.checkpoints import DamagedCheckpoint, RunState, keep_newest, open_verified
from unisd_rl.storage.files import WriteError
from unisd_rl.types import Failure, Notice, PolicyVersion

Result = TypeVar("Result")

_NOT_WRITTEN = (CheckpointNotWritten, DamagedCheckpoint, WriteError)


def save_checkpoint(run: Run, version: PolicyVersion) -> None:
    """Leave a checkpoint of `version`, or report why there is none."""
    try:
        _save(run, version)
    except (CheckpointNotWritten, DamagedCheckpoint) as error:
        run.report(Failure("checkpoint", f"{error}; those before it are kept", 0, 0.0))
    else:
        oldest = keep_newest(run.directory.checkpoints_folder, run.config.run.keep_checkpoints)
        if (keep := run.config.rollout.keep) != "all":
            run.queue.discard(min(oldest, max(0, version.number - keep)))


def save_last_checkpoint(run: Run, version: PolicyVersion) -> None:
    """Leave the last checkpoint, beside those that are kept: the result of the run, so it is tried again.

    Raises:
        RunFailed: see `write_with_retries`.
    """
    write_with_retries(run, "checkpoint", lambda: _save(run, version))
    keep_newest(run.directory.checkpoints_folder, run.config.run.keep_checkpoints + 1)


def write_with_retries(run: Run, component: str, write: Callable[[], Result]) -> Result:
    """What `write` returns, tried again with back-off while the disk does not take it; reported as `component`.

    Raises:
        RunFailed: it was not written after as many tries as `faults` allows.
    """
    try:
        return write()
    except _NOT_WRITTEN as error:
        restarts = RestartPolicy(component, run.config.faults)
        wait = partial(pause, on_wait=run.rollouts.check)
        return restarts.recover(error, write, _NOT_WRITTEN, run.report, wait)


def _save(run: Run, version: PolicyVersion) -> None:
    next_prompt = version.number * run.config.learner.batch_size
    state = RunState(version.lineage, version.number, next_prompt, run.directory.rollbacks())
    path = run.directory.checkpoint(version.number)
    with run.phase("saving a checkpoint", version=version.number):
        run.learners.save(path, state)
        open_verified(path)
        write_card(run, version)


def write_card(run: Run, version: PolicyVersion) -> None:
    """Write the model card of the checkpoint of `version`, with the evaluations that there are by now; where the disk
    does not take it, the run goes on without."""
    try:
        write_model_card(run.directory.path, run.directory.checkpoint(version.number), version.number)
    except OSError as error:
        run.report(Notice("checkpoint", f"its model card was not written: {error}"))

"""Checkpoints of a run: written by the learner while the actors go on, verified here; only then are old ones removed.

A disk that is full costs a checkpoint, not the run: the old ones stay. Only the last one must be written, and what an
evaluation found: those are waited for.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from learner.group import CheckpointNotWritten
from unisd_rl.cluster.retry import RestartPolicy
from unisd_rl.cluster.waiting import pause
from unisd_rl.driver.build import Parts
from unisd_rl.storage.checkpoints import DamagedCheckpoint, RunState, keep_newest, open_verified
from unisd_rl.storage.files import WriteError
from unisd_rl.types import Failure, PolicyVersion

Result = TypeVar("Result")

_REFUSED = (CheckpointNotWritten, DamagedCheckpoint, WriteError)


def save(parts: Parts, version: PolicyVersion) -> None:
    """Leave a checkpoint of `version`, or a fault that says why there is none."""
    try:
        _save(parts, version)
    except (CheckpointNotWritten, DamagedCheckpoint) as error:
        parts.report(Failure("checkpoint", f"{error}; those before it are kept", 0, 0.0))
    else:
        keep_newest(parts.directory.checkpoints_folder, parts.config.run.keep_checkpoints)


def save_last(parts: Parts, version: PolicyVersion) -> None:
    """Leave the last checkpoint, beside those that are kept; what the run is for is in it, so it is tried again.

    Raises:
        RunFailed: see `insist`.
    """
    insist(parts, "checkpoint", lambda: _save(parts, version))
    keep_newest(parts.directory.checkpoints_folder, parts.config.run.keep_checkpoints + 1)


def insist(parts: Parts, what: str, write: Callable[[], Result]) -> Result:
    """Write something that a run cannot do without, with a back-off as long as the disk does not take it.

    Raises:
        RunFailed: it was not written after as many tries as `faults` allows.
    """
    try:
        return write()
    except _REFUSED as error:
        restarts = RestartPolicy(what, parts.config.faults)
        wait = partial(pause, on_wait=parts.rollouts.check)
        return restarts.recover(error, write, _REFUSED, parts.report, wait)


def _save(parts: Parts, version: PolicyVersion) -> None:
    next_prompt = version.number * parts.config.learner.batch_size
    state = RunState(version.lineage, version.number, next_prompt, parts.directory.rollbacks())
    path = parts.directory.checkpoint(version.number)
    parts.learners.save(path, state)
    open_verified(path)

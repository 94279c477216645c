"""Checkpoints of a run: written by the learner while the actors go on, verified here; only then are old ones removed.

A disk that is full costs a checkpoint, not the run: the old ones stay. Only the last one must be written, and what an
evaluation found: those are waited for.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from learner.group import CheckpointNotWritten
from unisd_rl.cluster.restarts import RestartPolicy
from unisd_rl.driver.build import Parts
from unisd_rl.storage.checkpoints import DamagedCheckpoint, RunState, keep_newest, open_verified
from unisd_rl.storage.files import WriteError
from unisd_rl.types import Failure, PolicyVersion, Recovery

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
    budget, started, failed = RestartPolicy(what, parts.config.faults), time.monotonic(), False
    while True:
        try:
            written = write()
        except _REFUSED as error:
            failed, fault = True, budget.record_failure(str(error))
            parts.report(fault)
            pause(parts, fault.wait_s)
        else:
            break
    if failed:
        parts.report(Recovery(what, time.monotonic() - started))
    return written


def pause(parts: Parts, wait_s: float) -> None:
    """Wait before a further try, looking after the rollout actors meanwhile."""
    end_s = time.monotonic() + wait_s
    while (left_s := end_s - time.monotonic()) > 0.0:
        time.sleep(min(1.0, left_s))
        parts.rollouts.check()


def _save(parts: Parts, version: PolicyVersion) -> None:
    next_prompt = version.number * parts.config.learner.batch_size
    state = RunState(version.lineage, version.number, next_prompt, parts.directory.rollbacks())
    path = parts.directory.checkpoint(version.number)
    parts.learners.save(path, state)
    open_verified(path)

"""The learner's errors: a rank that is lost and can be started again, told apart from a check that fired.

A file of its own, which imports nothing heavy: the driver and every rank know them.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from unisd_rl.errors import RunFailed, UserError

_TRANSPORTS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")


class LearnerLost(RunFailed):
    """A rank died, hangs, or lost the others: all of them have to be started again from a checkpoint.

    Checks that fire (a loss that is no number, staleness, log-probs that disagree) are not: they would fire again.
    """


class InsufficientResources(UserError):
    """The cluster has no room for the ranks; after the loss of a machine one may come back."""


class CheckpointNotWritten(RunFailed):
    """The disk is full or cannot be written. The ranks are well, and so are the checkpoints before."""


@contextmanager
def translate_collective_errors() -> Iterator[None]:
    """What torch raises in here because another rank is gone becomes `LearnerLost`. A decorator for methods too."""
    try:
        yield
    except RuntimeError as error:
        if not _is_broken_collective(error):
            raise
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise LearnerLost(f"learner rank {os.environ['RANK']} lost the others: {reason}") from error


def _is_broken_collective(error: RuntimeError) -> bool:
    """NCCL and the ranks' meeting place raise errors of their own; gloo raises plain ones that name it."""
    from torch.distributed import DistError  # only ranks come here, and they have torch

    return isinstance(error, DistError) or any(transport in str(error) for transport in _TRANSPORTS)

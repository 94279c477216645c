"""A learner that is gone and can be started again, told apart from one that found something wrong.

Imports nothing heavy: the driver and every rank know these words.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from unisd_rl.errors import RunFailed, UserError

_TRANSPORTS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")


class LearnerLost(RunFailed):
    """A rank died, hangs, or lost the others: all of them have to be started again from a checkpoint.

    Checks that fire (a loss that is no number, staleness, log-probs that disagree) are not: they would fire again.
    """


class InsufficientResources(UserError):
    """The cluster has no place for the ranks; after the loss of a machine one may come back."""


class CheckpointNotWritten(RunFailed):
    """The disk is full or cannot be written. The ranks are well, and so are the checkpoints before."""


@contextmanager
def translate_collective_errors(rank: int) -> Iterator[None]:
    """What torch raises in here because another rank is gone becomes `LearnerLost`."""
    try:
        yield
    except RuntimeError as error:
        if not _is_broken_collective(error):
            raise
        what = str(error).splitlines()[0].partition(". ")[0]
        raise LearnerLost(f"learner rank {rank} lost the others: {what}") from error


def _is_broken_collective(error: RuntimeError) -> bool:
    """NCCL and the ranks' meeting place raise errors of their own; gloo raises plain ones that name it."""
    from torch.distributed import DistError  # only ranks come here, and they have torch

    return isinstance(error, DistError) or any(transport in str(error) for transport in _TRANSPORTS)

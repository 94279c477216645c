"""Whether a process sees the model's folder: on a cluster without shared storage it does not."""

from pathlib import Path

from unisd_rl.cluster.runtime import runtime
from unisd_rl.errors import UserError


def check_model_seen(process: str, model: Path) -> None:
    """Check that the node of this process sees the model's folder. One that is named on a hub has no absolute path.

    Raises:
        UserError: it does not, naming the node.
    """
    if model.is_absolute() and not model.is_dir():
        raise UserError(
            f"{process} on node {runtime().address()} does not see the model in {model}; put it, and "
            "run.dir, on storage that all nodes share"
        )

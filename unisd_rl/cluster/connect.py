"""From the configuration to what carries a run's processes, for the time of a block."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

from unisd_rl.cluster.in_process import in_process
from unisd_rl.cluster.resources import Requirement
from unisd_rl.config import Config


def connecting(config: Config) -> str:
    """What is waited for meanwhile, in words."""
    return "starting the event loop" if config.run.in_process else "connecting to Ray"


def connected(config: Config, *phases: Sequence[Requirement]) -> AbstractContextManager[None]:
    """Within this block processes can be spawned, and what each phase asks for is there; see `ray_cluster.connected`.

    Raises:
        UserError: the cluster lacks something after `run.cluster_timeout_s`, naming what and how much.
    """
    if config.run.in_process:
        return in_process()
    from unisd_rl.cluster import ray_cluster  # Ray

    return ray_cluster.connected(config, *phases)

"""From the configuration to the weight transport it names."""

from collections.abc import Callable, Mapping

from unisd_rl.config import Config
from unisd_rl.transport.weights.object_store import ObjectStoreTransport
from unisd_rl.transport.weights.transport import WeightTransport
from unisd_rl.transport.weights.vllm_trainer import IpcTransport, NcclTransport

TRANSPORTS: Mapping[str, Callable[[Config], WeightTransport]] = {
    "object_store": ObjectStoreTransport,
    "nccl": NcclTransport,
    "ipc": IpcTransport,
}


def weight_transport(config: Config) -> WeightTransport:
    """The transport of `weights.transport`; each process asks it for its own end."""
    return TRANSPORTS[config.weights.transport](config)

"""Where the two wires' own processes live."""

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def beside_the_driver() -> NodeAffinitySchedulingStrategy:
    """On the driver's node; on any other once that one is gone. What asks for no resource could be put on a rollout
    node, and go with it when the run is scaled down."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)

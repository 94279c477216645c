"""Where the two wires' own processes live."""

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def beside_the_driver() -> NodeAffinitySchedulingStrategy:
    """On the driver's node and no other: what asks for no resource would be put on a rollout node too, and go with it
    when the run is scaled down. A soft wish is not enough, Ray passes it on while the node is busy starting a process.
    Without that node there is no driver, and no run, either."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)

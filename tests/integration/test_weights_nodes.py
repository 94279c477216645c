"""Weights to several nodes on this machine: each node takes a snapshot in once, however many engines it has, and an
engine that is slow or gone holds nobody up."""

import os
import signal
import time

import pytest
import ray
import torch
from ray._private.internal_api import node_stats
from ray.cluster_utils import Cluster

from unisd_rl.config.run import FaultsConfig
from unisd_rl.transport.weights.manifest import checksum
from unisd_rl.transport.weights.object_store import ObjectStorePublisher, ObjectStoreReceiver
from unisd_rl.transport.weights.store import spawn_store
from unisd_rl.types import PolicyVersion

ENGINES = {"one": 1, "two": 2, "four": 4}
BUCKET_MIB, BUCKETS = 4, 4
NBYTES = BUCKETS * BUCKET_MIB << 20
CALL_S = 60.0


class Engine:
    """What a rollout actor does with the store, without the generator."""

    def __init__(self, store):
        self._receiver = ObjectStoreReceiver(store, CALL_S, FaultsConfig())

    async def fetch(self, version):
        fetched = await self._receiver.fetch(version)
        fetched.manifest.compare([checksum(bucket) for bucket in fetched.buckets])
        return fetched.manifest.version

    async def pid(self):
        return os.getpid()


class Nodes:
    """The learner (this process) and the store on one node, and nodes with engines."""

    def __init__(self, cluster):
        self.others = {name: cluster.add_node(num_cpus=1, resources={name: 10}) for name in ENGINES}
        ray.init(address=cluster.address, log_to_driver=False)
        cluster.wait_for_nodes()
        self.store = spawn_store()
        self.publisher = ObjectStorePublisher(self.store.handle, BUCKET_MIB)
        self.engines = {
            name: [ray.remote(Engine).options(num_cpus=0, resources={name: 1}).remote(self.store) for _ in range(count)]
            for name, count in ENGINES.items()
        }
        ray.get([engine.pid.remote() for engines in self.engines.values() for engine in engines], timeout=CALL_S)

    def publish(self, version):
        self.publisher.publish(
            version,
            [(f"layer.{index}", torch.full((BUCKET_MIB << 18,), float(version.number))) for index in range(BUCKETS)],
        )

    def taken_in(self):
        """Bytes that each node's object store took in so far, of whoever is on it or from another node."""
        self_address = ray.get_runtime_context().get_node_id()
        found = {}
        for node in ray.nodes():
            names = [name for name in ENGINES if name in node["Resources"]]
            name = "learner" if node["NodeID"] == self_address else names[0]
            stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False)
            found[name] = stats.store_stats.cumulative_created_bytes
        return found

    def until_waiting(self, count):
        deadline_s = time.monotonic() + CALL_S
        while ray.get(self.store.handle.__ray_call__.remote(lambda store: store._waiting), timeout=CALL_S) < count:
            assert time.monotonic() < deadline_s, f"waited {CALL_S:g} s for {count} engines to ask for weights"
            ray.wait([self.store.handle.instance_id.remote()], timeout=0.1)


@pytest.fixture(scope="module")
def nodes():
    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 200 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield Nodes(cluster)
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_node_takes_a_snapshot_in_once_however_many_engines_it_has_and_the_learner_puts_it_once(nodes):
    engines = [engine for on_node in nodes.engines.values() for engine in on_node]
    for number in range(2):
        version, before = PolicyVersion(0, number), nodes.taken_in()
        asked = [engine.fetch.remote(version) for engine in engines]
        nodes.until_waiting(len(engines))
        nodes.publish(version)
        assert ray.get(asked, timeout=CALL_S) == [version] * len(engines)
        nodes.publisher.wait(CALL_S)
        taken = {name: (after - before[name]) / NBYTES for name, after in nodes.taken_in().items()}
        # On the learner's node, what it puts and the store's own copy.
        assert taken == pytest.approx({"learner": 2.0, "one": 1.0, "two": 1.0, "four": 1.0}, rel=0.01)


def test_an_engine_that_is_stopped_or_gone_holds_up_neither_the_learner_nor_another_on_its_node(nodes):
    (_, *others), (gone, *rest) = nodes.engines["four"], nodes.engines["two"]
    slow = nodes.engines["four"][0]
    others = [*others, *rest, *nodes.engines["one"]]
    pid = ray.get(slow.pid.remote(), timeout=CALL_S)
    late = slow.fetch.remote(PolicyVersion(0, 2))
    nodes.until_waiting(1)
    os.kill(pid, signal.SIGSTOP)
    try:
        for number in (2, 3, 4):
            version = PolicyVersion(0, number)
            asked = [engine.fetch.remote(version) for engine in others]
            if number == 3:
                gone.fetch.remote(version)
            nodes.until_waiting(len(others) + (number == 3))
            if number == 3:
                ray.kill(gone)
            nodes.publish(version)
            nodes.publisher.wait(CALL_S)
            assert ray.get(asked, timeout=CALL_S) == [version] * len(others)
        assert not ray.wait([late], timeout=0)[0], "it is stopped"
    finally:
        os.kill(pid, signal.SIGCONT)
    assert ray.get(late, timeout=CALL_S) >= PolicyVersion(0, 2), "that of its request, or the newest where it is gone"

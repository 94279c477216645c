"""Learner ranks on nodes of their own: what each fetches, that they train what one rank does, and the loss of a node.

The nodes are raylets on this machine, as `ray.cluster_utils` makes them; ranks meet and reduce over gloo.
"""

from dataclasses import replace

import pytest
import ray
from ray._private.internal_api import node_stats
from ray.cluster_utils import Cluster

from learner.group import InsufficientResources, LearnerGroup, LearnerLost
from tests.fakes.finished import finished, read_until, run_job, start_job
from tests.fakes.learner_rig import learner_config, make_model, make_rollouts
from tests.fakes.same_training import files, rows, trained
from unisd_rl.cluster.cores import CorePlan
from unisd_rl.storage.checkpoints import RunState
from unisd_rl.transport.rollouts.schema import encode

TIMEOUT_S = 200.0
STORE_BYTES = 100 << 20
PADDING = 4_000_000  # bytes that make one rollout of a share large, and cost the learner nothing


class Nodes:
    """A head on which nothing of a run may be, learner nodes with room for one rank each, and one rollout node."""

    def __init__(self, learners):
        head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.learners = [self.add("learner") for _ in range(learners)]
        self.add("rollout")

    @property
    def address(self):
        return self.cluster.address

    def add(self, place):
        return self.cluster.add_node(num_cpus=1, resources={place: 1}, object_store_memory=STORE_BYTES)

    def close(self):
        self.cluster.shutdown()


@pytest.fixture
def nodes():
    made = Nodes(learners=2)
    yield made
    made.close()


@pytest.fixture
def connected(nodes):
    ray.init(address=nodes.address, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "model", tied=True)


def padded(rollouts, nbytes):
    """The same rollouts; the id of the first is long."""
    return (replace(rollouts[0], id="x" * nbytes), *rollouts[1:])


ROLLOUTS = make_rollouts()
SHARES = [encode(padded(ROLLOUTS[:9], PADDING)), encode(padded(ROLLOUTS[9:], 2 * PADDING))]


def group_of(model, folder, ranks, **learner):
    settings = learner_config(
        learner={"ranks": ranks, "resources": {"learner": 1.0}, **learner}, run={"cluster_timeout_s": 5.0}
    )
    return LearnerGroup(settings, CorePlan((), ()), model, folder)


def losses_of(model, folder, ranks, shards, **learner):
    """The losses of two steps of a group of its own, its nodes, and the bytes in the object store of each."""
    group = group_of(model, folder, ranks, **learner)
    group.start(TIMEOUT_S)
    try:
        references = [ray.put(shard) for shard in shards]
        reports = [group.step(references, version, TIMEOUT_S) for version in range(2)]
        where = nodes_of(group)
        return [report.loss.loss for report in reports], where, [stored(node) for node in where]
    finally:
        group.close()


def nodes_of(group):
    """The node of each rank."""
    asked = [rank.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()) for rank in group.ranks]
    return ray.get(asked, timeout=TIMEOUT_S)


def stored(node):
    """Bytes in the object store of a node."""
    (found,) = [each for each in ray.nodes() if each["NodeID"] == node]
    stats = node_stats(found["NodeManagerAddress"], found["NodeManagerPort"], include_memory_info=False)
    return stats.store_stats.object_store_bytes_used


@pytest.mark.slow
def test_ranks_on_two_nodes_fetch_their_own_rows_only_and_train_what_one_rank_does(nodes, connected, model, tmp_path):
    expected, _, _ = losses_of(model, tmp_path, 1, [encode(ROLLOUTS)])
    for stage in (1, 2, 3):
        found, where, held = losses_of(model, tmp_path, 2, SHARES, zero_stage=stage)
        assert len(set(where)) == 2
        assert ray.get_runtime_context().get_node_id() not in where
        for number, nbytes in enumerate(held, start=1):
            assert number * PADDING <= nbytes < (number + 0.5) * PADDING
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_a_rank_that_went_with_its_node_goes_on_from_the_checkpoint_on_another(nodes, connected, model, tmp_path):
    group, checkpoint = group_of(model, tmp_path, 2, zero_stage=3), tmp_path / "checkpoints" / "step-1"
    group.start(TIMEOUT_S)
    references = [ray.put(share) for share in SHARES]
    group.step(references, 0, TIMEOUT_S)
    group.save(checkpoint, RunState(0, 1, len(ROLLOUTS), ()))
    before, (first, second) = group.step(references, 1, TIMEOUT_S), nodes_of(group)
    (doomed,) = [node for node in nodes.learners if node.node_id == second]
    nodes.cluster.remove_node(doomed)
    with pytest.raises(LearnerLost):
        group.step(references, 2, TIMEOUT_S)
    group.close()
    with pytest.raises(InsufficientResources, match="no room for 2 learner ranks of 1 CPU, 1 learner each"):
        group.start(TIMEOUT_S)
    group.close()
    new = nodes.add("learner")
    group.start(TIMEOUT_S, checkpoint, version=1)
    assert set(nodes_of(group)) == {first, new.node_id}
    assert group.step(references, 1, TIMEOUT_S, lineage=1).loss == before.loss
    group.close()


BATCH, STEPS = 16, 6
RUN = (
    "--rollout.engine.type", "transformers", "--rollout.max_staleness", "0", "--rollout.lease_unit", "8",
    "--learner.batch_size", str(BATCH), "--run.steps", str(STEPS), "--run.checkpoint_every", "2",
    "--task.train_examples", "100", "--task.eval_examples", "8",
)  # fmt: skip
SPREAD = ("--learner.ranks", "2", "--learner.resources", '{"learner": 1}', "--rollout.resources", '{"rollout": 1}')


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_loss_of_a_learner_node_ends_in_a_fall_back_once_there_is_another_and_changes_no_bit(nodes, tmp_path):
    stage = ("--learner.zero_stage", "3")
    expected = run_job(tmp_path / "unharmed", *RUN, *stage, "--learner.ranks", "2")
    running = start_job(tmp_path, *RUN, *stage, *SPREAD, RAY_ADDRESS=nodes.address)
    seen = read_until(running, f"step    3/{STEPS}")
    nodes.cluster.remove_node(nodes.learners[1])
    seen += read_until(running, "learner failed: ")
    nodes.add("learner")
    run = finished(tmp_path, running, seen)
    assert [fall["step"] for fall in run.rollbacks] == [2]
    happened = [(event["event"], event["component"]) for event in run.events]
    assert happened == [("failure", "learner"), ("recovery", "learner")]
    assert trained(run.metrics, run.rollbacks) == trained(expected.metrics, [])
    assert rows(run.path, STEPS * BATCH).equals(rows(expected.path, STEPS * BATCH))
    assert files(run.checkpoint(STEPS)) == files(expected.checkpoint(STEPS))

"""Learner ranks on nodes of their own: what each fetches, that they train what one rank does, and the loss of a node.

The nodes are raylets on this machine, as `ray.cluster_utils` makes them; ranks meet and reduce over gloo.
"""

from dataclasses import replace

import psutil
import pytest
import ray
from finished import finished, process_of, read_until, run_job, start_job
from learner_rig import learner_config, make_model, make_rollouts
from ray._private.internal_api import node_stats
from ray.cluster_utils import Cluster
from same_training import files, rows, trained

from learner.group import LearnerGroup
from unisd_rl.placement import CorePlan
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


def padded(rollouts, nbytes):
    """The same rollouts; the id of the first is long."""
    return (replace(rollouts[0], id="x" * nbytes), *rollouts[1:])


def losses_of(model, folder, ranks, shards, **learner):
    """Two steps of a group of its own."""
    settings = learner_config(learner={"ranks": ranks, "resources": {"learner": 1.0}, **learner})
    group = LearnerGroup(settings, CorePlan((), ()), model, folder)
    group.start(TIMEOUT_S)
    try:
        references = [ray.put(shard) for shard in shards]
        reports = [group.step(references, version, TIMEOUT_S) for version in range(2)]
        asked = [rank.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()) for rank in group.ranks]
        where = ray.get(asked, timeout=TIMEOUT_S)
        return [report.loss for report in reports], where, [stored(node) for node in where]
    finally:
        group.close()


def stored(node):
    """Bytes in the object store of a node."""
    (found,) = [each for each in ray.nodes() if each["NodeID"] == node]
    stats = node_stats(found["NodeManagerAddress"], found["NodeManagerPort"], include_memory_info=False)
    return stats.store_stats.object_store_bytes_used


@pytest.mark.slow
def test_two_ranks_on_two_nodes_fetch_their_own_rows_only_and_train_what_one_rank_does(nodes, tmp_path):
    ray.init(address=nodes.address, log_to_driver=False)
    try:
        model, rollouts = make_model(tmp_path / "model", tied=True), make_rollouts()
        shares = [padded(rollouts[:9], PADDING), padded(rollouts[9:], 2 * PADDING)]
        found, where, held = losses_of(model, tmp_path, 2, [encode(share) for share in shares], zero_stage=3)
        assert len(set(where)) == 2
        assert ray.get_runtime_context().get_node_id() not in where
        for number, nbytes in enumerate(held, start=1):
            assert number * PADDING <= nbytes < (number + 0.5) * PADDING
        expected, _, _ = losses_of(model, tmp_path, 1, [encode(rollouts)])
        assert found == pytest.approx(expected, rel=1e-5)
    finally:
        ray.shutdown()


BATCH, STEPS = 16, 6
RUN = (
    "--rollout.engine.type", "transformers", "--rollout.max_staleness", "0", "--rollout.lease_unit", "8",
    "--learner.batch_size", str(BATCH), "--run.steps", str(STEPS), "--run.checkpoint_every", "2",
    "--task.train_examples", "100", "--task.eval_examples", "8",
)  # fmt: skip
SPREAD = ("--learner.ranks", "2", "--learner.resources", '{"learner": 1}', "--rollout.resources", '{"rollout": 1}')


def raylets_of(folder, ranks):
    """The process ids of the raylets that started the ranks of a run: one for each node."""
    logs = [folder / "run" / "logs" / f"learner-{rank}.log" for rank in range(ranks)]
    return {psutil.Process(process_of(log)).ppid() for log in logs}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_zero_stage_trains_on_two_nodes_what_one_rank_trains(nodes, tmp_path):
    expected = run_job(tmp_path / "one", *RUN)
    for stage in (1, 2, 3):
        folder = tmp_path / f"stage-{stage}"
        running = start_job(folder, *RUN, *SPREAD, "--learner.zero_stage", str(stage), RAY_ADDRESS=nodes.address)
        seen = read_until(running, f"step    1/{STEPS}")
        assert len(raylets_of(folder, 2)) == 2
        run = finished(folder, running, seen)
        losses = [[row["loss"] for row in one.metrics] for one in (run, expected)]
        assert len(losses[0]) == STEPS
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_loss_of_a_learner_node_ends_in_a_fall_back_once_there_is_another_and_changes_no_bit(nodes, tmp_path):
    stage = ("--learner.zero_stage", "3")
    expected = run_job(tmp_path / "unharmed", *RUN, *stage, "--learner.ranks", "2")
    running = start_job(tmp_path, *RUN, *stage, *SPREAD, RAY_ADDRESS=nodes.address)
    seen = read_until(running, f"step    3/{STEPS}")
    nodes.cluster.remove_node(nodes.learners[1])
    seen += read_until(running, "fault: learner: ")
    nodes.add("learner")
    run = finished(tmp_path, running, seen)
    assert [fall["step"] for fall in run.fall_backs] == [2]
    assert [(event["event"], event["part"]) for event in run.events] == [("fault", "learner"), ("recovery", "learner")]
    assert trained(run.metrics, run.fall_backs) == trained(expected.metrics, [])
    assert rows(run.path, STEPS * BATCH).equals(rows(expected.path, STEPS * BATCH))
    assert files(run.checkpoint(STEPS)) == files(expected.checkpoint(STEPS))

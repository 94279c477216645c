"""A process on a node that does not see its model says so, before it writes anything there."""

from pathlib import Path

import pytest

from actors.rollout_actor import ActorSpec, RolloutActor
from unisd_rl.cluster.shared_model import check_model_seen
from unisd_rl.config.load import load_recipe
from unisd_rl.errors import UserError
from unisd_rl.evaluation.retention_process import RetentionProcess
from unisd_rl.transport.weights.store import StoreClient

CONFIG = load_recipe("unisd_star", {"evaluation": {"retention": {}}})


def test_a_folder_that_is_there_and_the_name_of_a_model_on_a_hub_are_let_through(tmp_path):
    check_model_seen("rollout-0", tmp_path)
    check_model_seen("rollout-0", Path("Qwen/Qwen2.5-0.5B-Instruct"))


def rollout(model, run):
    RolloutActor("rollout-0", (), ActorSpec(CONFIG, model, run, None, StoreClient(None)))


def retention(model, run):
    RetentionProcess(CONFIG, CONFIG.evaluation.retention, (), model, run)


@pytest.mark.parametrize(("process", "name"), [(rollout, "rollout-0"), (retention, "retention")])
def test_a_node_that_does_not_see_the_model_is_named_with_the_remedy_and_gets_no_folder(process, name, tmp_path):
    run = tmp_path / "runs"
    with pytest.raises(UserError) as refusal:
        process(run / "base_model", run)
    said = str(refusal.value)
    assert said.startswith(f"{name} on node ")
    assert said.endswith(
        f" does not see the model in {run}/base_model; put it, and run.dir, on storage that all nodes share"
    )
    assert not run.exists()

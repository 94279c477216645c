"""In which order a run starts its processes, with hand-made groups."""

import pytest

from unisd_rl.cluster.cores import CorePlan
from unisd_rl.config.load import load_recipe
from unisd_rl.driver.build import bottleneck_meter, start_processes


class Group:
    """Says what is asked of it."""

    def __init__(self, name, said):
        self._name, self._said = name, said

    def __getattr__(self, method):
        return lambda *_: self._said.append(f"{self._name} {method}")


@pytest.mark.parametrize(
    ("gpus", "order"),
    [
        (0, ["learner place", "actors begin", "learner start", "actors start"]),
        (1, ["learner place", "actors begin", "learner start", "actors start"]),
        (0.5, ["learner place", "learner start", "actors start"]),
    ],
)
def test_engines_start_beside_the_learner_unless_they_may_share_a_gpu_with_it(gpus, order):
    config, said = load_recipe("unisd_star", {"rollout": {"gpus_per_actor": gpus}}), []
    start_processes(config, Group("learner", said), Group("actors", said))
    assert said == order


def test_in_one_process_the_engine_starts_after_the_learner():
    """Nothing could go on beside it: a call of the learner holds the loop."""
    config, said = load_recipe(["unisd_star", "in_process"], {}), []
    start_processes(config, Group("learner", said), Group("actors", said))
    assert said == ["learner place", "learner start", "actors start"]


def test_turns_on_a_gpu_are_not_suggested_by_what_cores_would_gain():
    half = {"rollout": {"gpus_per_actor": 0.5}, "learner": {"gpus_per_rank": 0.5}}
    shared = load_recipe("unisd_star", half)
    assert shared.may_be_colocated
    assert not bottleneck_meter(shared, CorePlan((), ())).may_be_colocated

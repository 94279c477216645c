"""Processes get cores of their own where there are enough of them."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisd_rl.cluster import cores
from unisd_rl.cluster.cores import CorePlan, available_cores, bind_to, core_plan, plan_cores
from unisd_rl.cluster.resources import Requirement, requirements
from unisd_rl.config.load import load_recipe


def test_two_cores_one_each():
    plan = plan_cores([0, 1], actors=1, ranks=1)
    assert plan.rollout == ((0,),)
    assert plan.learner == ((1,),)
    assert plan.describe() == "rollout 0: core 0 | learner 0: core 1"


def test_one_core_is_shared():
    assert plan_cores([5], 1, 1).rollout == plan_cores([5], 1, 1).learner == ((5,),)


def test_more_actors_than_cores_take_turns():
    assert plan_cores([0, 1], actors=3, ranks=2).rollout == ((0,), (0,), (0,))
    assert plan_cores([0, 1], actors=3, ranks=2).learner == ((1,), (1,))


def test_without_a_learner_the_actors_have_all_cores():
    assert plan_cores(range(4), actors=2, ranks=0).rollout == ((0, 1), (2, 3))
    assert plan_cores(range(4), actors=1, ranks=0, rollout_cores=[3]).rollout == ((3,),)
    assert plan_cores(range(4), actors=2, ranks=0).learner == ()


def test_an_explicit_list_overrides_the_deal_of_its_side():
    plan = plan_cores(range(8), actors=2, ranks=1, rollout_cores=[0, 1, 2, 3, 4, 5])
    assert plan.rollout == ((0, 1, 2), (3, 4, 5))
    assert plan.learner == ((4, 5, 6, 7),)


def test_actors_beyond_the_plan_share_the_cores_of_the_first_ones_in_turn():
    plan = plan_cores(range(8), actors=2, ranks=1)
    assert [plan.of_actor(index) for index in range(5)] == [(0, 1), (2, 3), (0, 1), (2, 3), (0, 1)]
    assert CorePlan((), ((0,),)).of_actor(3) == ()


def test_where_the_number_of_actors_may_change_cores_are_dealt_for_the_most_and_places_asked_for_the_first():
    config = load_recipe("unisd_star", {"rollout": {"actors": {"min": 2, "max": 5}}})
    assert len(core_plan(config).rollout) == 5
    assert requirements(config)[0] == Requirement("rollout actor", 2, {"CPU": 1.0})


@given(cores=st.integers(2, 64), actors=st.integers(1, 8), ranks=st.integers(1, 8))
def test_rollout_and_learner_never_share_a_core_and_each_process_has_one(cores, actors, ranks):
    plan = plan_cores(range(cores), actors, ranks)
    assert len(plan.rollout) == actors
    assert len(plan.learner) == ranks
    assert all(plan.rollout + plan.learner)
    assert not set().union(*plan.rollout) & set().union(*plan.learner)


@pytest.mark.parametrize(("side", "setting"), [("rollout", "gpus_per_actor"), ("learner", "gpus_per_rank")])
def test_processes_with_a_gpu_are_bound_to_no_core(side, setting):
    plan = core_plan(load_recipe("unisd_star", {side: {setting: 1}}))
    bound = {"rollout": plan.rollout, "learner": plan.learner}
    assert bound.pop(side) == ()
    assert all(bound.values())


def test_a_node_without_the_planned_cores_is_left_to_the_system():
    before = os.sched_getaffinity(0)
    bind_to((100_000,))
    assert os.sched_getaffinity(0) == before


@pytest.fixture
def eight_cores(monkeypatch):
    """This process seems to be on a machine of eight cores; what it binds itself to is listed."""
    bound = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, given: bound.append(given))
    return bound


@pytest.fixture
def cgroup(monkeypatch, tmp_path):
    """Where this process reads the limits of its container: an empty folder."""
    monkeypatch.setattr(cores, "CGROUP", tmp_path)
    return tmp_path


LIMITS = [
    ({"cpu.max": "200000 100000"}, 2),
    ({"cpu.max": "250000 100000"}, 2),  # half a core more is no further thread
    ({"cpu.max": "50000 100000"}, 1),
    ({"cpu.max": "1600000 100000"}, 8),  # more than the machine has
    ({"cpu.max": "max 100000"}, 8),
    ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
    ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
    ({}, 8),
]


@pytest.mark.parametrize(("files", "available"), LIMITS, ids=lambda value: f"{value}")
def test_a_container_has_as_many_cores_as_its_limit_pays_for(eight_cores, cgroup, files, available):
    for name, text in files.items():
        (cgroup / name).parent.mkdir(exist_ok=True)
        (cgroup / name).write_text(f"{text}\n")
    assert available_cores() == tuple(range(available))


@pytest.mark.parametrize(("limit", "bound_to"), [("200000", []), ("800000", [{2, 3}])], ids=["limited", "all its own"])
def test_a_limited_container_takes_its_threads_from_the_plan_and_its_cores_from_the_system(
    eight_cores, cgroup, limit, bound_to
):
    """Containers on one machine have the same plan: bound to it, they would all compute on the same few cores."""
    (cgroup / "cpu.max").write_text(f"{limit} 100000\n")
    if limit == "200000":
        assert core_plan(load_recipe("unisd_star")) == CorePlan(((0,),), ((1,),))
    bind_to((2, 3, 9))
    assert eight_cores == bound_to


def test_colocated_both_sides_have_all_cores_unless_they_are_given(monkeypatch):
    monkeypatch.setattr(cores, "available_cores", lambda: (0, 1, 2, 3))
    turns = {"run": {"placement": "colocated"}}
    assert core_plan(load_recipe("unisd_star", turns)) == CorePlan(((0, 1, 2, 3),), ((0, 1, 2, 3),))
    two_ranks = {**turns, "learner": {"ranks": 2}, "rollout": {"cores": [0, 1, 2]}}
    assert core_plan(load_recipe("unisd_star", two_ranks)) == CorePlan(((0, 1, 2),), ((0, 1), (2, 3)))

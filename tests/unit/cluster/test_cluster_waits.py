"""Waits for a cluster's nodes: bounded, and the console says what for, since a job whose nodes never come looks alike.

Ray is a cluster that offers what a test says, at once.
"""

import pytest

from learner import group
from learner.errors import InsufficientResources
from learner.group import LearnerGroup
from unisd_rl.cluster import ray_cluster
from unisd_rl.cluster.cores import CorePlan
from unisd_rl.cluster.resources import requirements
from unisd_rl.config.load import load_recipe
from unisd_rl.errors import RunFailed, UserError


def config(limit_s):
    return load_recipe(["unisd_star", "cluster"], {"run": {"cluster_timeout_s": limit_s}})


CONFIG = config(0.01)
LEARNER = {"CPU": 2.0, "learner": 1.0}


class Offers:
    """Ray, with one answer after the other to what the cluster has; the last one stays."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def cluster_resources(self):
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def offering(monkeypatch):
    """Make Ray offer what it is called with."""

    def offer(*answers):
        monkeypatch.setattr(ray_cluster, "ray", Offers(*answers))
        monkeypatch.setattr(ray_cluster, "request_resources", lambda bundles: None)
        monkeypatch.setattr(ray_cluster, "POLL_S", 0.0)
        monkeypatch.setenv("RAY_ADDRESS", "head:6379")

    return offer


def test_a_wait_for_nodes_says_what_is_lacking_and_ends_with_the_same_words(offering, capsys):
    offering(LEARNER)
    lack = "the cluster lacks rollout: 1 needed, 0 there"
    with pytest.raises(UserError, match=lack):
        ray_cluster._wait_for_resources(CONFIG, requirements(CONFIG))
    assert capsys.readouterr().err == f"waiting up to 0.01 s for nodes: {lack}\n"


def test_nodes_that_come_meanwhile_end_the_wait_and_a_whole_cluster_needs_none(offering, capsys):
    whole = LEARNER | {"rollout": 1.0}
    offering(LEARNER, LEARNER, whole)
    ray_cluster._wait_for_resources(CONFIG, requirements(CONFIG))
    assert "waiting up to" in capsys.readouterr().err
    offering(whole)
    ray_cluster._wait_for_resources(CONFIG, requirements(CONFIG))
    assert capsys.readouterr().err == ""


class Placement:
    """A place that finds its nodes at the try of this number."""

    def __init__(self, found_at):
        self.found_at, self.tries, self.given_back = found_at, 0, 0

    def wait(self, _timeout_s):
        self.tries += 1
        return self.tries >= self.found_at

    def give_back(self):
        self.given_back += 1


class OnePlace:
    """What carries processes, with this place for whoever asks."""

    def __init__(self, placement):
        self.placement = placement

    def place(self, bundles):
        assert bundles == [LEARNER | {"CPU": 1.0}]
        return self.placement

    def free(self, bundle):
        return {"CPU": 1.0, "learner": 0.0}


@pytest.mark.parametrize(("found_at", "limit_s"), [(1, 60.0), (3, 60.0), (1_000_000_000, 0.01)])
def test_a_learner_without_its_node_says_what_it_waits_for_and_looks_after_the_others(
    found_at, limit_s, monkeypatch, capsys, tmp_path
):
    placement, looked_after = Placement(found_at), []
    monkeypatch.setattr(group, "runtime", lambda: OnePlace(placement))
    learners = LearnerGroup(
        config(limit_s), CorePlan((), ()), tmp_path, tmp_path, lambda: looked_after.append(placement.tries)
    )
    what = "1 learner ranks of 1 CPU, 1 learner each"
    if found_at > 3:
        with pytest.raises(
            InsufficientResources, match=f"after 0.01 s the cluster has no room for {what}; free now: 1"
        ):
            learners._place()
        assert placement.given_back == 1
    else:
        assert learners._place() is placement
        assert placement.given_back == 0
    assert looked_after == list(range(1, placement.tries))
    assert capsys.readouterr().err == ("" if found_at == 1 else f"waiting up to {limit_s:g} s for {what}\n")


def test_ray_that_does_not_start_is_one_sentence_with_its_reason(monkeypatch):
    def late(**_):
        raise Exception("The current node timed out during startup.")  # as Ray does, of this very class

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_cluster.ray, "init", late)
    with (
        pytest.raises(
            RunFailed, match=r"Ray does not start on this machine: The current node timed out during startup"
        ),
        ray_cluster.connected(CONFIG, requirements(CONFIG)),
    ):
        raise AssertionError("not connected")

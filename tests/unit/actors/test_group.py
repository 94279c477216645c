"""What a group does without any process: the rest is in tests/integration."""

from pathlib import Path

import pytest

from actors import group
from actors.group import OutageTimer, RolloutGroup, print_event
from actors.rollout_actor import ActorSpec
from actors.supervisor import State
from tests.fakes.hand_moved import Clock
from unisd_rl.cluster.cores import CorePlan
from unisd_rl.config import Config
from unisd_rl.config.load import load_recipe
from unisd_rl.errors import UserError
from unisd_rl.transport.weights.store import StoreClient
from unisd_rl.types import Failure, Recovery


def test_before_its_start_a_group_that_is_looked_after_starts_nothing():
    config = Config.model_validate({"objective": {"divergence": {}}})
    group = RolloutGroup(
        ActorSpec(config, Path("model"), Path("run"), None, StoreClient(handle=None)), CorePlan((), ())
    )
    group.check()  # the learner, which starts first, calls it while it waits
    assert (group.serving, group.handles, group.counts().states) == (0, (), ())


class Unplaced:
    """An actor that no node has room for."""

    state, awaited, process = State.PLACING, (), None

    def check(self):
        pass

    close = drain = check


def test_actors_without_a_place_are_waited_for_in_words_and_not_for_ever(monkeypatch, capsys):
    config = load_recipe(["unisd_star", "cluster"], {"run": {"cluster_timeout_s": 0.2}, "rollout": {"actors": 2}})
    monkeypatch.setattr(group, "free_of", lambda bundle: {"CPU": 3.0, "rollout": 1.0})
    monkeypatch.setattr(group, "_POLL_S", 0.001)
    monkeypatch.setattr(group, "_QUIET_S", 0.1)
    actors = RolloutGroup(ActorSpec(config, Path("model"), Path("run"), None, StoreClient(None)), CorePlan((), ()))
    actors._supervisors = [Unplaced(), Unplaced()]
    with pytest.raises(UserError, match=r"only 0 of 2 rollout actors found a place within 0\.2 s"):
        actors._wait_for_placement()
    told = "waiting up to 0.2 s for places of 2 rollout actors, 1 CPU, 1 rollout each\n"
    assert capsys.readouterr().err == told, "said once"


def test_a_group_of_no_run_says_what_breaks_and_what_works_again(capsys):
    print_event(Failure("rollout-1", "rollout-1 died", 1, 1.0))
    print_event(Recovery("rollout-1", 3.0))
    assert capsys.readouterr().err == "rollout-1: rollout-1 died\nrollout-1: works again\n"


def test_nobody_serves_for_too_long_only_if_nobody_is_found_all_the_time():
    clock = Clock()
    absence, found = OutageTimer(10.0, clock), []
    for clock.now, serving in ((0, 1), (500, 0), (509, 0), (510, 1), (511, 0), (521, 0), (521.5, 0)):
        found.append(absence.exceeded(serving))
    assert found == [False] * 6 + [True]

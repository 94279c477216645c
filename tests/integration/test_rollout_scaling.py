"""Rollout actors that come and go in mid-run, in real Ray processes."""

import signal

import pytest

from actors.group import RolloutGroup
from actors.rollout_actor import ActorSpec
from actors.scale_requests import ScaleRequests
from actors.scaling import TargetActorCount
from tests.fakes.finished import FinishedRun, read_until, start_job
from tests.fakes.rollout_rig import BATCH, PLAN, WAIT_S, config, numbered
from unisd_rl.cluster.stop import STOPPED
from unisd_rl.config.rollout import AutoActors
from unisd_rl.scale import main as scale

pytestmark = pytest.mark.slow
SCALED_RUN = (
    *("--run.steps", "2000", "--learner.batch_size", "16", "--task.eval_examples", "8"),
    *("--rollout.engine.type", "transformers", "--rollout.actors.min", "1", "--rollout.actors.max", "2"),
    *("--rollout.actors.patience", "1000"),  # the rule keeps still
)


def test_from_one_actor_to_three_and_back_every_prompt_arrives_once_and_nothing_breaks(parts):
    parts.serve(2 * BATCH)
    parts.take_all(0, 1)
    parts.group.scale(3)
    parts.until(lambda: parts.group.serving == 3, "three actors serve")
    parts.queue.admit(tuple(numbered(number) for number in range(2 * BATCH, 6 * BATCH)))
    three = parts.take_all(1, 5)
    parts.group.scale(1)
    parts.until(lambda: len(parts.group.counts().states) == 1, "two actors have gone")
    assert parts.group.counts().states == ("rollout-0: serving",)
    one = parts.take_all(5, 6)
    assert [rollout.number for rollout in (*three, *one)] == list(range(BATCH, 6 * BATCH))
    assert len({rollout.actor for rollout in three}) == 3
    assert parts.events == []
    report = parts.queue.report()
    assert (report.lost, report.duplicated, report.refused) == (0, 0, 0)
    assert sum(actor.rollouts for actor in parts.group.reports()) == 6 * BATCH  # those that went are counted
    parts.group.scale(2)
    parts.until(lambda: parts.group.serving == 2, "an actor has come again")
    assert parts.group.counts().states == ("rollout-0: serving", "rollout-1.1: serving")


@pytest.mark.parametrize("parts", [{"max_completion_tokens": 64}], indirect=True)
def test_an_actor_that_goes_completes_what_it_has_in_flight(parts):
    parts.serve(0)
    parts.group.scale(2)
    parts.until(lambda: parts.group.serving == 2, "two actors serve")
    parts.queue.admit(tuple(numbered(number) for number in range(2 * BATCH)))
    parts.until(lambda: parts.queue.report().leased > 6, "both have prompts in flight")
    parts.group.scale(1)
    parts.until(lambda: len(parts.group.counts().states) == 1, "one actor has gone")
    parts.take_all(0, 2)
    report = parts.queue.report()
    assert (report.leases, report.committed, report.refused) == (2 * BATCH, 2 * BATCH, 0)  # none was leased twice


def test_an_actor_for_whom_there_is_no_place_holds_nobody_up(parts):
    parts.serve(BATCH)
    parts.group.scale(5)
    parts.until(lambda: parts.group.serving == 3, "as many serve as have a place")
    parts.take_all(0, 1)
    assert parts.group.counts().states[3:] == ("rollout-3: waiting for a place", "rollout-4: waiting for a place")
    parts.group.scale(3)
    parts.group.check()
    assert len(parts.group.counts().states) == 3
    assert parts.events == []


def test_what_a_person_asks_for_comes_and_the_answer_is_written(parts, tied_model_path, tmp_path):
    settings, control = config(actors=AutoActors(min=1, max=2)), ScaleRequests(tmp_path)
    target = TargetActorCount(settings.rollout, control, parts.events.append)
    group = RolloutGroup(
        ActorSpec(settings, tied_model_path, tmp_path, parts.queue_handle, parts.store),
        PLAN,
        parts.events.append,
        target,
    )
    try:
        group.start(WAIT_S)
        assert group.serving == 1
        control.request_actors(2)

        def serving():
            group.check()
            return control.status().serving

        parts.until(lambda: serving() == 2, "the second actor serves")
        assert control.status().states == ("rollout-0: serving", "rollout-1: serving")
    finally:
        group.close()
    assert [(event.before, event.actors) for event in parts.events] == [(1, 2)]


def test_a_run_is_scaled_by_the_command_while_it_trains(tmp_path):
    running = start_job(tmp_path, *SCALED_RUN)
    try:
        read_until(running, "step    1/")
        assert scale([str(tmp_path / "run"), "--actors", "2"]) == 0
        served = ScaleRequests(tmp_path / "run").status()
        assert scale([str(tmp_path / "run"), "--actors", "1"]) == 0
        running.send_signal(signal.SIGINT)
        output = running.communicate(timeout=WAIT_S)[0]
    finally:
        running.kill()
    assert running.returncode == STOPPED, output[-4000:]
    assert served.states == ("rollout-0: serving", "rollout-1: serving")
    run = FinishedRun(tmp_path / "run", output)
    steps = run.summary["steps"]
    assert [row["prompt"] for row in run.consumed] == list(range(steps * 16))
    happened = [(event["event"], event["component"], event.get("actors")) for event in run.events]
    assert happened == [("scaling", "rollout", 2), ("scaling", "rollout", 1), ("stop", "driver", None)]
    assert "rollout actors 1 -> 2: requested" in output
    assert scale([str(tmp_path / "run"), "--actors", "2"]) == 2  # it has ended

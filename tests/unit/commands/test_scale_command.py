"""Scaling from outside a run: what is refused, what is written, what the driver makes of it."""

import fcntl
import json

import pytest

from actors.scale_requests import ActorCounts, ScaleRequests
from actors.scaling import Observation, TargetActorCount
from tests.fakes.full_disk import files_of_at_most
from unisd_rl.config.load import load_recipe
from unisd_rl.config.rollout import AutoActors, RolloutConfig
from unisd_rl.driver.run_dir import RunDirectory
from unisd_rl.errors import UserError
from unisd_rl.scale import describe, main
from unisd_rl.types import Failure, Scaling

THREE_SERVE = ActorCounts(3, 3, ("rollout-0: serving", "rollout-1: serving", "rollout-2: serving"))


@pytest.fixture
def run(tmp_path):
    """The folder of a run that is going on."""
    return going_on(tmp_path / "run", {})


def going_on(folder, actors):
    overrides = {"rollout": {"actors": actors}} if actors else {}
    directory = RunDirectory(folder)
    directory.create(load_recipe("unisd_star", overrides))
    return directory


def scaled(capsys, *arguments):
    code = main([*map(str, arguments)])
    return code, capsys.readouterr().err.strip()


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    code, said = scaled(capsys, tmp_path, "--actors", 2)
    assert (code, said.count("\n")) == (2, 0)
    assert f"{tmp_path} is not the folder of a run" in said


def test_a_run_that_has_ended_is_refused(run, capsys):
    run.close()
    code, said = scaled(capsys, run.path, "--actors", 2)
    assert (code, said) == (2, f"error: the run in {run.path} is not running: resume it first, then scale it")
    assert ScaleRequests(run.path).requested_actors() is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--actors", 0), "--actors 0: a run needs at least 1 rollout actor"),
        (("--actors", "many"), "argument --actors: invalid int value: 'many'"),
        ((), "the following arguments are required: --actors"),
    ],
)
def test_what_is_no_number_of_actors_is_refused_in_one_sentence(run, capsys, arguments, said):
    code, printed = scaled(capsys, run.path, *arguments)
    assert (code, printed.count("\n")) == (2, 0)
    assert said in printed


def test_a_run_that_chooses_itself_refuses_what_is_beyond_its_bounds(tmp_path, capsys):
    run = going_on(tmp_path / "run", {"min": 2, "max": 4})
    code, said = scaled(capsys, run.path, "--actors", 5, "--no-wait")
    assert code == 2
    assert "between rollout.actors.min = 2 and max = 4" in said
    assert scaled(capsys, run.path, "--actors", 4, "--no-wait") == (0, "")
    run.close()


def test_a_colocated_run_is_not_scaled(tmp_path, capsys):
    directory = RunDirectory(tmp_path / "run")
    directory.create(load_recipe("unisd_star", {"run": {"placement": "colocated"}}))
    code, said = scaled(capsys, directory.path, "--actors", 2, "--no-wait")
    assert (code, said.count("\n")) == (2, 0)
    assert said.startswith(
        'error: --actors 2: this run has run.placement = "colocated", where one actor and the learner'
    )
    assert ScaleRequests(directory.path).requested_actors() is None
    directory.close()


def test_the_request_is_written_whole_and_the_command_ends_when_so_many_serve(run, capsys):
    control = ScaleRequests(run.path)
    control.report(THREE_SERVE)
    assert main([str(run.path), "--actors", "3"]) == 0
    assert "3 of 3 rollout actors serve" in capsys.readouterr().out
    assert json.loads((run.path / "control" / "actors.json").read_text()) == {"actors": 3}
    assert sorted(path.name for path in (run.path / "control").iterdir()) == ["actors.json", "status.json"]


@pytest.mark.parametrize(
    "status",
    [
        ActorCounts(2, 2, ("rollout-0: serving", "rollout-1: serving")),
        ActorCounts(3, 2, ("rollout-0: serving", "rollout-1: serving", "rollout-2: waiting for a place")),
        ActorCounts(3, 3, (*THREE_SERVE.states, "rollout-3: draining")),
    ],
    ids=["not_seen_yet", "not_there_yet", "not_gone_yet"],
)
def test_what_is_not_there_in_time_is_told_and_the_request_stands(run, capsys, status):
    control = ScaleRequests(run.path)
    control.report(status)
    code, said = scaled(capsys, run.path, "--actors", 3, "--timeout", 0.01)
    assert code == 1
    assert said == f"failed: waited 0.01 s for 3 rollout actors: {describe(status)}; the request stands"
    assert control.requested_actors() == 3


def test_the_probe_of_a_run_leaves_its_folder_free(run):
    run.close()
    assert not ScaleRequests(run.path).running
    with (run.path / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def target(run, told, **rollout):
    return TargetActorCount(RolloutConfig(**rollout), ScaleRequests(run.path), told.append)


@pytest.mark.parametrize(
    ("actors", "said"),
    [
        ({"min": 3, "max": 2}, r"min = 3 is above max = 2: raise the second or lower the first"),
        ({"min": 3}, r"rollout\.actors\.max is missing"),
        (0, r"rollout\.actors = 0: Input should be greater than or equal to 1"),
        ("auto", r"rollout\.actors: 'auto' needs its bounds: rollout\.actors\.max, and"),
        ("many", r"rollout\.actors = 'many': Input should be a valid integer"),
    ],
)
def test_a_number_of_actors_is_one_or_a_section_with_bounds(actors, said):
    with pytest.raises(UserError, match=said):
        load_recipe("unisd_star", {"rollout": {"actors": actors}})


def test_the_configured_number_holds_until_somebody_says_another_and_the_change_is_an_event_of_its_own(run):
    told = []
    wanted = target(run, told, actors=2)
    assert wanted.count() == 2
    ScaleRequests(run.path).request_actors(5)
    assert [wanted.count(), wanted.count()] == [5, 5]
    assert told == [Scaling("rollout", "requested by unisd_rl.scale", 2, 5)]


def test_what_a_full_disk_does_not_take_of_the_status_is_said_later(run):
    wanted, status = target(run, [], actors=2), ActorCounts(2, 1, ("rollout-0: serving",))
    with files_of_at_most(8):
        wanted.report(status)
    assert ScaleRequests(run.path).status() is None
    wanted.report(status)
    assert ScaleRequests(run.path).status() == status


@pytest.mark.parametrize("text", ["", "{", "[3]", '{"actors": 0}', '{"actors": "3"}'])
def test_a_request_nobody_can_read_changes_nothing_and_is_told_once(run, text):
    told = []
    wanted = target(run, told, actors=2)
    ScaleRequests(run.path).request_actors(3)
    assert wanted.count() == 3
    told.clear()
    (run.path / "control" / "actors.json").write_text(text)
    assert [wanted.count(), wanted.count()] == [3, 3]
    (fault,) = told
    assert isinstance(fault, Failure)
    assert "actors.json" in fault.reason


def test_the_rule_goes_on_from_what_was_said_last(run):
    told = []
    wanted = target(run, told, actors=AutoActors(min=1, max=6, patience=1))
    assert wanted.count() == 1
    ScaleRequests(run.path).request_actors(4)
    assert wanted.count() == 4
    wanted.observe(Observation(wait_share=0.0, batches_ready=2.0, busy_share=0.1, serving=4))
    assert wanted.count() == 3
    assert [(event.before, event.actors) for event in told] == [(1, 4), (4, 3)]
    assert "rollout.actors.max" in told[1].reason


def test_a_run_that_goes_on_keeps_what_was_asked_and_forgets_what_was_answered(run):
    earlier = ScaleRequests(run.path)
    earlier.request_actors(3)
    earlier.report(THREE_SERVE)
    wanted = target(run, [], actors=1)
    assert wanted.count() == 3
    assert ScaleRequests(run.path).status() is None

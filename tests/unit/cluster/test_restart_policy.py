import json

import pytest
from pydantic import ValidationError

from unisd_rl.cluster.retry import RestartPolicy
from unisd_rl.config.run import FaultsConfig
from unisd_rl.driver.run_dir import RunDirectory
from unisd_rl.errors import RunFailed
from unisd_rl.types import Failure, Recovery

CONFIG = FaultsConfig(backoff_s=1.0, backoff_max_s=5.0, max_restarts=4, window_s=100.0)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_each_failure_in_a_row_waits_twice_as_long_up_to_the_longest_wait():
    budget = RestartPolicy("rollout-1", CONFIG, Clock())
    faults = [budget.record_failure("it died") for _ in range(4)]
    assert [fault.wait_s for fault in faults] == [1.0, 2.0, 4.0, 5.0]
    assert faults[2] == Failure("rollout-1", "it died", 3, 4.0)


def test_one_failure_more_than_allowed_ends_the_run_and_says_why():
    budget = RestartPolicy("learner", CONFIG, Clock())
    for _ in range(4):
        budget.record_failure("a rank died")
    with pytest.raises(RunFailed, match=r"learner failed 5 times within 100 s .*max_restarts = 4.*rank 1 died"):
        budget.record_failure("rank 1 died")


def test_failures_older_than_the_window_are_forgotten():
    clock = Clock()
    budget = RestartPolicy("queue", CONFIG, clock)
    for _ in range(4):
        budget.record_failure("it died")
    clock.now = 100.0
    assert budget.record_failure("it died").restart == 1


def test_failures_without_a_step_further_are_counted_however_old_they_are():
    clock = Clock()
    budget = RestartPolicy("learner", CONFIG, clock)
    for reached in (7, 7, 8, 8, 8, 8):
        clock.now += 100.0
        assert budget.record_failure("it hangs", reached).restart == 1
    with pytest.raises(
        RunFailed, match=r"learner failed 5 times and never got beyond step 8 .*max_restarts = 4.*hangs"
    ):
        budget.record_failure("it hangs", 6)


def test_with_no_restarts_the_first_failure_ends_the_run():
    with pytest.raises(RunFailed):
        RestartPolicy("store", FaultsConfig(max_restarts=0), Clock()).record_failure("it died")


def test_a_restart_is_tried_again_until_it_works_and_every_failure_is_reported():
    clock, events, waits, outcomes = Clock(), [], [], [OSError("no room"), OSError("still none"), "started"]

    def pause(wait_s):
        waits.append(wait_s)
        clock.now += wait_s

    def restart():
        outcome = outcomes.pop(0)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    policy = RestartPolicy("learner", CONFIG, clock)
    assert policy.recover(ValueError("it died"), restart, (OSError,), events.append, pause) == "started"
    assert waits == [1.0, 2.0, 4.0]
    assert events == [
        Failure("learner", "it died", 1, 1.0),
        Failure("learner", "no room", 2, 2.0),
        Failure("learner", "still none", 3, 4.0),
        Recovery("learner", 7.0),
    ]


def test_what_a_restart_cannot_mend_ends_it():
    def restart():
        raise KeyError("mine")

    with pytest.raises(KeyError):
        RestartPolicy("learner", CONFIG, Clock()).recover(
            ValueError("it died"), restart, (OSError,), [].append, [].append
        )


def test_a_ping_slower_than_the_silence_it_ends_is_refused():
    with pytest.raises(ValidationError, match="ping_s = 60 is not below silent_s = 60"):
        FaultsConfig(ping_s=60.0, silent_s=60.0)


def test_faults_and_recoveries_are_lines_of_the_runs_folder(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.record(Failure("rollout-0", "its engine is stuck", 1, 0.5))
    directory.record(Recovery("rollout-0", 12.5))
    first, second = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    assert {**first, "time_s": 0} == {
        "time_s": 0, "event": "failure", "component": "rollout-0", "reason": "its engine is stuck", "restart": 1,
        "wait_s": 0.5,
    }  # fmt: skip
    assert (second["event"], second["seconds"]) == ("recovery", 12.5)
    assert first["time_s"] <= second["time_s"]

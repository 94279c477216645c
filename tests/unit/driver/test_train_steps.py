"""The loop of `train.py`: what happens in which order, and what stops it; with hand-made parts around it."""

import json
import signal
from contextlib import contextmanager
from dataclasses import replace

import pytest

from actors.scale_requests import ActorCounts
from learner.errors import LearnerLost
from tests.fakes.step_metrics import step_metrics
from unisd_rl.cluster.stop import StopSignals
from unisd_rl.config.load import load_recipe
from unisd_rl.driver.alarms import Alarms
from unisd_rl.driver.bottleneck import BottleneckMeter
from unisd_rl.driver.build import Run
from unisd_rl.driver.console import Console
from unisd_rl.driver.run_dir import RunDirectory
from unisd_rl.driver.status import ConsumedTail
from unisd_rl.metrics import AnswerMetrics
from unisd_rl.storage.timeline import Track
from unisd_rl.tracking.tracker import Trackers
from unisd_rl.train import train_steps
from unisd_rl.transport.rollouts.batch import QueueBatch
from unisd_rl.transport.weights.store import StoreClient
from unisd_rl.types import INITIAL_VERSION, PolicyVersion

BATCH = 4


class Parts:
    """The learner, the queue, the actors and the store of a run: all note in one list what they are asked for."""

    handles, pulses = (), {}

    def __init__(self):
        self.calls, self.admitted, self.stop_at, self.lost_at, self.stop = [], 0, None, None, StopSignals()

    def admit(self, prompts):
        self.admitted += len(prompts)
        self.calls.append(f"admit to {self.admitted}")

    def take(self, step, shards, timeout_s, on_wait):
        on_wait()
        self.calls.append(f"take {step}")
        return QueueBatch(step, (None,) * shards, (), 0, 10, 0)

    def step(self, shards, step, timeout_s, lineage, sampled):
        self.calls.append(f"step {step}")
        if step == self.lost_at:
            raise LearnerLost("gone")
        if step == self.stop_at:
            with self.stop.deferred():
                self.stop(signal.SIGTERM, None)
        return replace(step_metrics(), step=step)

    def publish(self, version, target):
        self.calls.append(f"publish {version.number}")

    def wait_for(self, version, timeout_s, on_wait):
        self.calls.append(f"verify {version.number}")

    def answers(self, prompts, sampling, version, on_wait):
        return []

    def prompt(self, number):
        return number

    def numbers(self, step):
        return frozenset()

    def lost_contents(self):
        return None

    def check(self): ...

    @contextmanager
    def asleep(self, timeout_s, on_wait):
        on_wait()
        self.calls.append("sleep")
        try:
            yield
        finally:
            self.calls.append("wake")

    def broadcast(self, version): ...

    def observe(self, wait_share, busy_share, batches_ready): ...

    def counts(self):
        return ActorCounts(1, 1, ("rollout-0: serving",))


@pytest.fixture
def started(tmp_path, monkeypatch):
    """A function that makes a run of so many steps, and its parts."""
    monkeypatch.setattr("unisd_rl.driver.publish.PROBES", 0)

    def start(steps, recipe="unisd_star", grader=None, **sections):
        sections = {"run": {"steps": steps, "checkpoint_every": 0}, "learner": {"batch_size": BATCH}, **sections}
        config, parts, directory = load_recipe(recipe, sections), Parts(), RunDirectory(tmp_path / "run")
        directory.create(config)
        run = Run(
            config=config, task=None, prompts=parts, queue=parts, store=StoreClient(None), store_monitor=parts,
            rollouts=parts, learners=parts, directory=directory, console=Console(steps),
            consumed=ConsumedTail(directory.path / "consumed.jsonl"), retention=None, grader=grader,
            samples=parts, page=None, trackers=Trackers({}, None, None),
            track=Track(directory.path, "driver"), meter=BottleneckMeter(1),
            alarms=Alarms(config, lambda event: None), report=lambda event: None,
        )  # fmt: skip
        return run, parts

    return start


def test_a_step_is_admit_take_step_publish_and_prompts_are_admitted_as_far_as_staleness_lets_them_start(started):
    run, parts = started(4, rollout={"max_staleness": 1})
    assert train_steps(run, INITIAL_VERSION, parts.stop) == PolicyVersion(0, 4)
    assert parts.calls == [
        "admit to 12", "take 0", "step 0", "publish 1", "verify 1",
        "admit to 16", "take 1", "step 1", "publish 2",
        "admit to 16", "take 2", "step 2", "publish 3",
        "admit to 16", "take 3", "step 3", "publish 4",
    ]  # fmt: skip
    lines = [json.loads(line) for line in (run.directory.path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["lineage"], line["step"]) for line in lines] == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_colocated_the_actors_sleep_from_the_batch_until_they_have_the_new_weights(started, monkeypatch):
    run, parts = started(3, run={"steps": 3, "checkpoint_every": 1, "placement": "colocated"})
    monkeypatch.setattr(
        "unisd_rl.train.save_checkpoint", lambda run, version: parts.calls.append(f"save {version.number}")
    )
    train_steps(run, INITIAL_VERSION, parts.stop)
    assert parts.calls == [
        "admit to 12", "take 0", "sleep", "step 0", "publish 1", "verify 1", "verify 1", "save 1", "wake",
        "admit to 12", "take 1", "sleep", "step 1", "publish 2", "verify 2", "save 2", "wake",
        "admit to 12", "take 2", "sleep", "step 2", "publish 3", "verify 3", "wake",
    ]  # fmt: skip


def test_colocated_actors_are_woken_when_the_learner_is_lost_in_its_turn(started):
    run, parts = started(3, run={"steps": 3, "checkpoint_every": 0, "placement": "colocated"})
    parts.lost_at = 1
    with pytest.raises(LearnerLost):
        train_steps(run, INITIAL_VERSION, parts.stop)
    assert parts.calls[-4:] == ["take 1", "sleep", "step 1", "wake"]


def test_versions_are_published_as_seldom_as_configured(started):
    run, parts = started(4, rollout={"max_staleness": 1}, weights={"publish_every": 2})
    train_steps(run, INITIAL_VERSION, parts.stop)
    assert [call for call in parts.calls if call.startswith(("publish", "verify"))] == ["publish 2", "publish 4"]


def test_no_version_is_published_to_actors_that_do_not_follow_the_student(started):
    run, parts = started(2, recipe="ssd")
    train_steps(run, INITIAL_VERSION, parts.stop)
    assert [call for call in parts.calls if call.startswith("publish")] == []


def test_a_requested_stop_ends_the_loop_after_the_step(started):
    run, parts = started(4)
    parts.stop_at = 1
    assert train_steps(run, INITIAL_VERSION, parts.stop) == PolicyVersion(0, 2)
    assert parts.calls[-1] == "publish 2"


def test_a_stop_in_an_evaluation_between_steps_ends_the_evaluation_and_no_step_follows(started, monkeypatch):
    run, parts = started(4)

    def evaluate(run, version):
        if version.number == 2:
            parts.stop(signal.SIGTERM, None)
        parts.calls.append(f"evaluate {version.number}")

    monkeypatch.setattr("unisd_rl.train.evaluate_if_due", evaluate)
    with parts.stop.deferred():
        assert train_steps(run, INITIAL_VERSION, parts.stop) == PolicyVersion(0, 2)
    assert [call for call in parts.calls if call.startswith("eval")] == ["evaluate 0", "evaluate 1"]
    assert parts.calls[-1] == "publish 2"


def test_ctrl_c_that_is_no_request_is_not_swallowed_by_an_evaluation(started, monkeypatch):
    def evaluate(run, version):
        raise KeyboardInterrupt

    run, parts = started(4)
    monkeypatch.setattr("unisd_rl.train.evaluate_if_due", evaluate)
    with pytest.raises(KeyboardInterrupt):
        train_steps(run, INITIAL_VERSION, parts.stop)


def test_after_a_rollback_the_steps_are_of_the_new_lineage(started):
    run, parts = started(3)
    assert train_steps(run, PolicyVersion(2, 1), parts.stop) == PolicyVersion(2, 3)
    assert [call for call in parts.calls if call.startswith("step")] == ["step 1", "step 2"]


class Grader:
    """Notes when it is asked, and says the same of every step."""

    def __init__(self):
        self.calls = []

    def start(self, batch):
        self.calls.append(f"start {batch.step}")

    def result(self):
        self.calls.append("result")
        return AnswerMetrics(4, 0.5, 0.75)


def test_grades_of_training_answers_stand_in_the_line_of_their_step_and_only_where_there_are_any(started):
    grader = Grader()
    run, parts = started(2, grader=grader)
    train_steps(run, INITIAL_VERSION, parts.stop)
    assert grader.calls == ["start 0", "result", "start 1", "result"]
    lines = [json.loads(line) for line in (run.directory.path / "metrics.jsonl").read_text().splitlines()]
    grades = {"answers_per_prompt": 4, "train_accuracy": 0.5, "train_pass_at_g": 0.75}
    assert [{name: line.get(name) for name in grades} for line in lines] == [grades, grades]


def test_a_run_of_one_answer_per_prompt_has_no_grades_in_its_lines(started):
    run, parts = started(1)
    train_steps(run, INITIAL_VERSION, parts.stop)
    (line,) = (run.directory.path / "metrics.jsonl").read_text().splitlines()
    assert not {"answers_per_prompt", "train_accuracy", "train_pass_at_g"} & json.loads(line).keys()

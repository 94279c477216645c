"""What the driver does when the learner is lost or a checkpoint cannot be written, with hand-made parts around it."""

from dataclasses import dataclass, field, replace

import pytest

from actors.scale_requests import ActorCounts
from learner.errors import CheckpointNotWritten, InsufficientResources, LearnerLost
from unisd_rl.config.load import load_recipe
from unisd_rl.driver.alarms import Alarms
from unisd_rl.driver.bottleneck import BottleneckMeter
from unisd_rl.driver.build import Run
from unisd_rl.driver.checkpointing import save_checkpoint, save_last_checkpoint, write_with_retries
from unisd_rl.driver.console import Console
from unisd_rl.driver.publish import check_health, publish_and_verify
from unisd_rl.driver.recovery import LearnerRecovery
from unisd_rl.driver.run_dir import RunDirectory
from unisd_rl.driver.status import ConsumedTail
from unisd_rl.errors import RunFailed
from unisd_rl.storage.checkpoints import RunState, newest_first, open_verified, write_manifest
from unisd_rl.storage.files import WriteError
from unisd_rl.storage.timeline import Track
from unisd_rl.transport.weights.store import StoreClient
from unisd_rl.types import Failure, PolicyVersion, Recovery, Resumption

BATCH = 8
PATIENCE = {"backoff_s": 0.001, "backoff_max_s": 0.001, "max_restarts": 3}


class Learners:
    """Stands for the learner's group: says what was asked of it, and fails as often as it is told to."""

    def __init__(self, said):
        self.said, self.starting, self.saving, self.dead = said, [], [], False

    def check(self):
        if self.dead:
            raise LearnerLost("a rank died")

    def close(self):
        self.dead = False
        self.said.append("close")

    def start(self, timeout_s):
        self.said.append("start")
        if self.starting:
            raise self.starting.pop(0)

    def load(self, checkpoint, version):
        self.said.append(f"load {checkpoint.name}")

    def publish(self, version, target):
        self.said.append(f"publish {version.lineage}:{version.number}")

    def save(self, path, state):
        if self.saving:
            raise self.saving.pop(0)
        path.mkdir(parents=True)
        (path / "run_state.json").write_text(state.to_json())
        write_manifest(path)


class Queue:
    def __init__(self, said, directory):
        self.said, self.directory, self.now = said, directory, 0

    def lineage(self):
        return self.now

    def discard(self, step):
        self.said.append(f"discard {step}")

    def roll_back(self, lineage, step):
        assert lineage == self.now + 1
        self.now = lineage
        self.said.append(f"queue {lineage}:{step}")
        with (self.directory / "lineages.jsonl").open("a") as file:
            file.write(f'{{"lineage": {lineage}, "step": {step}, "steps_lost": 0}}\n')


class Rollouts:
    """Actors that are well, and apply at once what is published."""

    handles = ()

    def check(self): ...

    check_beside_learner = check

    def counts(self):
        return ActorCounts(1, 1, ("rollout-0: serving",))

    def broadcast(self, version): ...

    def wait_for(self, version, timeout_s, on_wait):
        on_wait()

    def answers(self, prompts, sampling, version, on_wait):
        return []


class Prompts:
    def prompt(self, number):
        raise AssertionError("nothing is sampled here")


@dataclass
class Emptied:
    """Says so many times that the store lost what it held."""

    left: int = 0

    def lost_contents(self):
        self.left -= 1
        return Failure("store", "it died", 1, 0.0) if self.left >= 0 else None


@dataclass
class Rig:
    run: Run
    said: list[str]
    events: list = field(default_factory=list)

    @property
    def checkpoints(self):
        return self.run.directory.checkpoints_folder


@pytest.fixture
def rig(tmp_path, request, monkeypatch):
    monkeypatch.setattr("unisd_rl.driver.publish.PROBES", 0)
    recipe, section = getattr(request, "param", ("unisd_star", {}))
    config = load_recipe(recipe, {"faults": PATIENCE, "learner": {"batch_size": BATCH}, "run": section})
    said, events = [], []
    directory = RunDirectory(tmp_path)
    directory.checkpoints_folder.mkdir()
    learners, queue = Learners(said), Queue(said, tmp_path)
    run = Run(
        config, None, Prompts(), queue, StoreClient(None), Emptied(), Rollouts(), learners, directory,
        Console(quiet=True), ConsumedTail(tmp_path / "consumed.jsonl"), BottleneckMeter(1), None, None,
        None, None, None, Track(tmp_path, "driver"), Alarms(config, events.append), events.append,
    )  # fmt: skip
    return Rig(run, said, events)


def test_the_learner_starts_again_at_the_newest_checkpoint_and_the_work_goes_on_there(rig):
    for number in (2, 4):
        save_checkpoint(rig.run, PolicyVersion(0, number))
    seen = []

    def work(version):
        seen.append(version)
        if len(seen) == 1:
            raise LearnerLost("a rank died")
        return "done"

    assert LearnerRecovery(rig.run, PolicyVersion(0, 5)).run_with_recovery(work) == "done"
    assert seen == [PolicyVersion(0, 5), PolicyVersion(1, 4)]
    assert rig.said == ["close", "start", "load step-4", "queue 1:4", "publish 1:4"]
    fault, recovery = rig.events
    assert (fault.component, fault.reason, fault.restart) == ("learner", "a rank died", 1)
    assert (recovery.component, recovery.seconds > 0.0) == ("learner", True)


def test_without_a_checkpoint_it_begins_again(rig):
    def work(version):
        if version.lineage == 0:
            raise LearnerLost("a rank died")
        return version

    assert LearnerRecovery(rig.run, PolicyVersion(0, 3)).run_with_recovery(work) == PolicyVersion(1, 0)
    assert rig.said == ["close", "start", "queue 1:0", "publish 1:0"]


@pytest.mark.parametrize("rig", [("ssd", {})], indirect=True)
def test_actors_that_never_follow_get_the_initial_weights_before_the_learner_has_others(rig):
    save_checkpoint(rig.run, PolicyVersion(0, 4))
    recovery = LearnerRecovery(rig.run)
    recovery.start_or_resume(resumed=True)
    assert recovery.version == PolicyVersion(1, 4)
    assert rig.said == ["publish 0:0", "load step-4", "queue 1:4"]
    assert [event.component for event in rig.events] == ["driver", "driver"]
    rig.said.clear()
    LearnerRecovery(rig.run, PolicyVersion(1, 5)).run_with_recovery(lost_once())
    assert rig.said == ["close", "start", "load step-4", "queue 2:4"]  # the actors have them


def lost_once():
    seen = []

    def work(version):
        seen.append(version)
        if len(seen) == 1:
            raise LearnerLost("a rank died")
        return version

    return work


def test_a_new_lineage_needs_a_learner_that_started(rig):
    rig.run.learners.starting = [LearnerLost("it died again"), InsufficientResources("the machine is not back yet")]

    def work(version):
        if version.lineage == 0:
            raise LearnerLost("a machine was lost")
        return version

    assert LearnerRecovery(rig.run, PolicyVersion(0, 3)).run_with_recovery(work) == PolicyVersion(1, 0)
    assert rig.said.count("start") == 3
    assert [event.reason for event in rig.events if isinstance(event, Failure)] == [
        "a machine was lost",
        "it died again",
        "the machine is not back yet",
    ]


def test_a_learner_that_keeps_dying_ends_the_run(rig):
    def work(version):
        raise LearnerLost("a rank died")

    with pytest.raises(RunFailed, match=r"learner failed 4 times .*max_restarts = 3.*a rank died"):
        LearnerRecovery(rig.run, PolicyVersion(0, 0)).run_with_recovery(work)


def test_a_learner_that_always_hangs_at_the_same_step_ends_the_run_however_slowly(rig):
    faults = rig.run.config.faults.model_copy(update={"window_s": 1e-9})
    run = replace(rig.run, config=rig.run.config.model_copy(update={"faults": faults}))
    hangs_at = iter([3, 5, 5, 5, 9, 9, 9, 9])

    def work(version):
        run.directory.steps_logged = next(hangs_at)
        raise LearnerLost("the learner did not train the next step within 600 s")

    with pytest.raises(RunFailed, match=r"learner failed 4 times and never got beyond step 9 .*within 600 s"):
        LearnerRecovery(run, PolicyVersion(0, 0)).run_with_recovery(work)
    assert next(hangs_at, None) is None


@pytest.mark.parametrize("stopped", [True, False])
def test_a_run_that_was_asked_to_stop_is_resumed_without_a_failure(rig, stopped):
    rig.run.directory.stopped_before = stopped
    LearnerRecovery(rig.run).start_or_resume(resumed=True)
    kinds = [Resumption] if stopped else [Failure, Recovery]
    assert [(type(event), event.component) for event in rig.events] == [(kind, "driver") for kind in kinds]


def test_a_check_that_fires_is_not_recovered_from(rig):
    def work(version):
        raise RunFailed("the loss of this step is nan")

    with pytest.raises(RunFailed, match="nan"):
        LearnerRecovery(rig.run, PolicyVersion(0, 0)).run_with_recovery(work)
    assert rig.said == []


def test_a_checkpoint_names_the_next_prompt_and_the_lineages_so_far(rig):
    rig.run.queue.roll_back(1, 2)
    save_checkpoint(rig.run, PolicyVersion(1, 4))
    state = open_verified(rig.run.directory.checkpoint(4)).state
    assert state == RunState(1, 4, 4 * BATCH, rig.run.directory.rollbacks())
    assert state.fall_backs[0].step == 2


def test_a_disk_that_is_full_keeps_the_old_ones_and_the_run(rig):
    for number in (2, 4):
        save_checkpoint(rig.run, PolicyVersion(0, number))
    rig.run.learners.saving = [CheckpointNotWritten("step-6 could not be written: No space left on device")]
    save_checkpoint(rig.run, PolicyVersion(0, 6))
    assert [path.name for path in newest_first(rig.checkpoints)] == ["step-4", "step-2"]
    (fault,) = rig.events
    assert "No space left" in fault.reason
    save_checkpoint(rig.run, PolicyVersion(0, 8))
    assert [path.name for path in newest_first(rig.checkpoints)] == ["step-8", "step-4"]


@pytest.mark.parametrize(("keep", "from_step"), [("all", None), (3, [0, 10, 20, 30]), (15, [0, 5, 15, 25])])
def test_rollouts_are_thrown_away_that_no_kept_checkpoint_and_no_step_of_the_setting_needs(rig, keep, from_step):
    rollout = rig.run.config.rollout.model_copy(update={"keep": keep})
    run = replace(rig.run, config=rig.run.config.model_copy(update={"rollout": rollout}))
    for step in (10, 20, 30):
        save_checkpoint(run, PolicyVersion(0, step))
    run.learners.saving = [CheckpointNotWritten("full")]
    save_checkpoint(run, PolicyVersion(0, 35))  # nothing more may go while there is no newer one
    save_checkpoint(run, PolicyVersion(0, 40))
    assert rig.said == [f"discard {step}" for step in from_step or ()]


def test_the_last_checkpoint_is_tried_again_and_kept_beside_the_others(rig):
    for number in (2, 4):
        save_checkpoint(rig.run, PolicyVersion(0, number))
    rig.run.learners.saving = [CheckpointNotWritten("full"), CheckpointNotWritten("still full")]
    save_last_checkpoint(rig.run, PolicyVersion(0, 5))
    assert [path.name for path in newest_first(rig.checkpoints)] == ["step-5", "step-4", "step-2"]
    assert isinstance(rig.events[-1], Recovery)
    rig.run.learners.saving = [CheckpointNotWritten("full")] * 4
    with pytest.raises(RunFailed, match=r"checkpoint failed 4 times.*full"):
        save_last_checkpoint(rig.run, PolicyVersion(0, 6))


def test_what_an_evaluation_found_is_written_again_until_the_disk_takes_it(rig):
    refusals = [WriteError("step-5.json cannot be written: No space left on device")] * 2

    def write():
        if refusals:
            raise refusals.pop()
        return "written"

    assert write_with_retries(rig.run, "evaluation", write) == "written"
    assert [(type(event), event.component) for event in rig.events] == [
        (Failure, "evaluation"),
        (Failure, "evaluation"),
        (Recovery, "evaluation"),
    ]
    refusals += [WriteError("full")] * 4
    with pytest.raises(RunFailed, match=r"evaluation failed 4 times.*full"):
        write_with_retries(rig.run, "evaluation", write)


def test_an_emptied_store_gets_the_learners_version(rig):
    rig.run.store_monitor.left = 1
    rig.run.store.version = PolicyVersion(0, 3)
    check_health(rig.run, PolicyVersion(0, 3))
    assert rig.said == ["publish 0:3"]
    assert [event.component for event in rig.events] == ["store", "store"]
    check_health(rig.run, PolicyVersion(0, 3))
    assert len(rig.said) == 1


def test_a_version_that_the_store_lost_on_the_way_to_the_actors_is_published_again(rig):
    rig.run.store_monitor.left = 1
    publish_and_verify(rig.run, PolicyVersion(0, 3))
    assert rig.said == ["publish 0:3", "publish 0:3"]


def test_a_learner_that_died_with_what_it_published_is_noticed_while_actors_wait_for_it(rig):
    def work(version):
        if version.lineage == 0:
            rig.run.learners.dead = True
            publish_and_verify(rig.run, PolicyVersion(0, 3))
        return version

    assert LearnerRecovery(rig.run, PolicyVersion(0, 3)).run_with_recovery(work) == PolicyVersion(1, 0)
    assert rig.said == ["publish 0:3", "close", "start", "queue 1:0", "publish 1:0"]


@pytest.mark.parametrize("rig", [("ssd", {})], indirect=True)
def test_initial_weights_that_the_store_lost_are_had_by_starting_the_learner_again(rig):
    rig.run.store_monitor.left = 1
    with pytest.raises(LearnerLost, match="initial weights"):
        check_health(rig.run, PolicyVersion(0, 3))

"""What happens to a run: one class for each kind of fault.

A kind says when it can strike (`ready`), strikes, is taken away after `hold_s` where it is one that passes, and says
from the outside when the run has mended it (`mended`). What must hold beside, that steps go on, is for the schedule.
"""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from chaos_run import PLACES, ChaoticRun
from finished import REPOSITORY

from unisd_rl.checkpoints import DamagedCheckpoint, newest_first, opened

_TRIFLE_BYTES = 64  # less than any file that is written as a whole
EXAMINING = "evaluating version"


class ChaosFault:
    """One fault of a run. `random` chooses whom it strikes."""

    family = ""
    """Two of one family do not strike at the same time."""
    hold_s = 0.0
    """How long it lasts before `relieve`."""

    def __init__(self, run: ChaoticRun, random: random.Random) -> None:
        self.run, self.random = run, random
        self.struck_s, self.victim = 0.0, ""

    @classmethod
    def kind(cls) -> str:
        assert cls.__doc__ is not None
        return cls.__doc__.splitlines()[0].rstrip(".")

    def ready(self) -> bool:
        """Whether it can strike now."""
        return True

    def strike(self) -> None:
        self.struck_s = time.time()
        self.do()

    def do(self) -> None:
        raise NotImplementedError

    def relieve(self) -> None:
        """The cause goes away by itself; nothing, for most."""

    def mended(self) -> bool:
        raise NotImplementedError

    def told(self, part: str, event: str = "recovery") -> bool:
        """Whether events.jsonl has this since the strike; a driver that was started again since tells no more."""
        found = any(
            one["event"] == event and one["part"] == part and one["time_s"] > self.struck_s for one in self.run.events
        )
        return found or self.run.resumed_s > self.struck_s


class _OfAnActor(ChaosFault):
    """Strikes one rollout actor, which must be replaced."""

    family = "rollout"
    process: psutil.Process

    def ready(self) -> bool:
        return self.run.all_serve

    def do(self) -> None:
        self.victim, self.process = self.random.choice(self.run.actors())
        self.part = self.victim.split(".")[0]
        self.harm(self.process)

    def harm(self, actor: psutil.Process) -> None:
        raise NotImplementedError

    def mended(self) -> bool:
        return _gone(self.process) and self.told(self.part) and self.run.all_serve


class ActorKilled(_OfAnActor):
    """Rollout actor killed."""

    def harm(self, actor: psutil.Process) -> None:
        actor.kill()


class ActorHung(_OfAnActor):
    """Rollout actor stopped for good (SIGSTOP)."""

    def harm(self, actor: psutil.Process) -> None:
        actor.suspend()


class ActorKilledInEvaluation(ActorKilled):
    """Rollout actor killed in mid-evaluation."""

    def ready(self) -> bool:
        return super().ready() and _examining(self.run)


class EngineKilled(_OfAnActor):
    """vLLM's process killed under its actor."""

    def harm(self, actor: psutil.Process) -> None:
        self.process = _engine_of(actor)
        self.process.kill()


class EngineStuck(EngineKilled):
    """vLLM's process stopped for good (SIGSTOP)."""

    def harm(self, actor: psutil.Process) -> None:
        self.process = _engine_of(actor)
        self.process.suspend()


class ActorLate(_OfAnActor):
    """Rollout actor stopped until its leases ran out, then let go on."""

    hold_s = 8.0  # longer than rollout.lease_s, shorter than faults.silent_s

    def harm(self, actor: psutil.Process) -> None:
        actor.suspend()

    def relieve(self) -> None:
        if not _gone(self.process):
            self.process.resume()

    def mended(self) -> bool:
        return self.run.all_serve  # it lives, or was taken for dead: both are right


class RolloutNodeLost(ChaosFault):
    """Rollout node removed, another one added."""

    family = "rollout"
    hold_s = 2.0

    def ready(self) -> bool:
        return self.run.all_serve

    def do(self) -> None:
        serving = [actor for _, actor in self.run.actors()]
        nodes = [node for node in self.run.rollout_nodes if any(_lives_on(node, actor) for actor in serving)]
        self.node = self.random.choice(nodes)
        self.actors = [actor for actor in serving if _lives_on(self.node, actor)]
        self.victim = f"node of {len(self.actors)} actors"
        self.run.nodes.remove_node(self.node, allow_graceful=False)
        self.run.rollout_nodes.remove(self.node)

    def relieve(self) -> None:
        self.run.rollout_nodes.append(self.run.add_rollout_node())

    def mended(self) -> bool:
        return all(map(_gone, self.actors)) and self.run.all_serve


class Scaled(ChaosFault):
    """Rollout actors scaled up or down."""

    family = "rollout"

    def ready(self) -> bool:
        return self.run.all_serve

    def do(self) -> None:
        status = self.run.status
        assert status is not None
        self.wanted = self.random.choice([count for count in range(1, PLACES + 2) if count != status.wanted])
        self.victim = f"{status.wanted} to {self.wanted} actors"
        asked = [sys.executable, "-m", "unisd_rl.scale", str(self.run.path), "--actors", str(self.wanted), "--no-wait"]
        done = subprocess.run(asked, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    def mended(self) -> bool:
        status = self.run.status
        return status is not None and status.wanted == self.wanted and self.run.all_serve


class RankKilled(ChaosFault):
    """Learner rank killed."""

    family = "learner"

    def do(self) -> None:
        self.lineage = self.run.lineage
        self.run.the_process("ray::RankProcess").kill()

    def mended(self) -> bool:
        return self.run.lineage > self.lineage and _steps_in(self.run, self.run.lineage)


class RankKilledInEvaluation(RankKilled):
    """Learner rank killed in mid-evaluation."""

    def ready(self) -> bool:
        return _examining(self.run)


class RankKilledInPublication(RankKilled):
    """Learner rank killed in mid-publication (the store had its weights offered, and no copy of them)."""

    hold_s = 1.0

    def do(self) -> None:
        self.store = self.run.the_process("ray::WeightStore")
        self.store.suspend()
        try:
            trained = len(self.run.metrics)
            self.run.until(lambda: len(self.run.metrics) > trained, "a version is published to a stopped store", 90.0)
            self.struck_s = time.time()
            super().do()
        except BaseException:
            self.store.resume()
            raise

    def relieve(self) -> None:
        if not _gone(self.store):
            self.store.resume()


class CheckpointDamaged(RankKilled):
    """Newest checkpoint cut short, and a learner rank killed."""

    def ready(self) -> bool:
        return len(_whole(self.run)) > 1

    def do(self) -> None:
        newest = _whole(self.run)[0] / "training_state" / "tensors-00000.safetensors"
        os.truncate(newest, self.random.randrange(newest.stat().st_size))
        self.victim = newest.parents[1].name
        super().do()

    def mended(self) -> bool:
        return self.told("checkpoint", "fault") and super().mended()


class LearnerNodeLost(RankKilled):
    """Learner node removed, another one added."""

    hold_s = 2.0

    def do(self) -> None:
        self.lineage = self.run.lineage
        self.run.nodes.remove_node(self.run.learner_node, allow_graceful=False)

    def relieve(self) -> None:
        self.run.learner_node = self.run.add_learner_node()


class QueueKilled(ChaosFault):
    """Queue process killed."""

    family = "queue"
    title = "ray::OwningQueue"

    def do(self) -> None:
        self.process = self.run.the_process(self.title)
        self.harm()

    def harm(self) -> None:
        self.process.kill()

    def mended(self) -> bool:
        alive = self.run.processes(self.title)
        return _gone(self.process) and bool(alive)


class StoreKilled(QueueKilled):
    """Weight store killed."""

    family, title = "store", "ray::WeightStore"

    def mended(self) -> bool:
        return super().mended() and self.told("store")


class QueueHung(QueueKilled):
    """Queue process stopped for good (SIGSTOP)."""

    def harm(self) -> None:
        self.process.suspend()

    def mended(self) -> bool:
        return super().mended() and self.told("queue")


class StoreHung(StoreKilled):
    """Weight store stopped for good (SIGSTOP)."""

    def harm(self) -> None:
        self.process.suspend()


class QueueSlow(ChaosFault):
    """Queue process stopped for some seconds (SIGSTOP)."""

    family, hold_s = "queue", 6.0

    def do(self) -> None:
        self.process = self.run.the_process("ray::OwningQueue")
        self.process.suspend()

    def relieve(self) -> None:
        if not _gone(self.process):
            self.process.resume()

    def mended(self) -> bool:
        return True  # steps go on: the schedule sees to that


class LedgerFull(ChaosFault):
    """Disk full for the queue: the system refuses it every write."""

    family, hold_s = "queue", 5.0

    def do(self) -> None:
        self.process = self.run.the_process("ray::OwningQueue")
        limit_files_of(self.process, _TRIFLE_BYTES)

    def relieve(self) -> None:
        if not _gone(self.process):
            limit_files_of(self.process, resource.RLIM_INFINITY)

    def mended(self) -> bool:
        return True


class CheckpointDiskFull(ChaosFault):
    """Disk full for the learner as a checkpoint falls due: it is not written, the run goes on."""

    family = "learner"

    def do(self) -> None:
        self.process = self.run.the_process("ray::RankProcess")
        limit_files_of(self.process, _TRIFLE_BYTES)
        self.run.until(self._told_or_lost, "the checkpoint that was not written is told", 300.0)

    def relieve(self) -> None:
        if not _gone(self.process):
            limit_files_of(self.process, resource.RLIM_INFINITY)

    def mended(self) -> bool:
        return _gone(self.process) or any(path.stat().st_mtime > self.struck_s for path in _whole(self.run))

    def _told_or_lost(self) -> bool:
        return self.told("checkpoint", "fault") or _gone(self.process)


class DriverKilled(ChaosFault):
    """Driver killed (SIGKILL), and the run resumed."""

    family = "driver"
    hold_s = 1.0

    def do(self) -> None:
        self.lineage = self.run.lineage
        self.run.driver.send_signal(signal.SIGKILL)
        self.run.driver.wait(timeout=60)

    def relieve(self) -> None:
        self.run.resume()

    def mended(self) -> bool:
        return self.run.lineage > self.lineage and _steps_in(self.run, self.run.lineage) and self.run.all_serve


def limit_files_of(process: psutil.Process, nbytes: int) -> None:
    """A write of that process beyond so many bytes of a file fails, as on a disk that is full."""
    hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (nbytes if nbytes >= 0 else hard, hard))


def _gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _lives_on(node, process: psutil.Process) -> bool:
    """Whether it is a process of this node: one that its raylet started."""
    raylets = {info.process.pid for infos in node.all_processes.values() for info in infos}
    return any(parent.pid in raylets for parent in process.parents())


def _engine_of(actor: psutil.Process) -> psutil.Process:
    return next(child for child in actor.children(recursive=True) if "EngineCore" in " ".join(child.cmdline()))


def _examining(run: ChaoticRun) -> bool:
    """Whether the last thing the driver said is that an evaluation begins."""
    return run.output.rstrip().rpartition("\n")[2].startswith(EXAMINING)


def _steps_in(run: ChaoticRun, lineage: int) -> bool:
    return any(row["lineage"] == lineage for row in run.metrics[-5:])


def _whole(run: ChaoticRun) -> list[Path]:
    """The checkpoints that are whole, newest first."""
    found = []
    for path in newest_first(run.path / "checkpoints"):
        try:
            found.append(opened(path).path)
        except DamagedCheckpoint:
            continue
    return found

"""Faults of rollout actors, their engines and their nodes."""

import subprocess
import sys

import psutil

from tests.chaos.fault import ChaosFault, examining, gone, lives_on
from tests.chaos.run import PLACES
from tests.fakes.finished import REPOSITORY


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
        return gone(self.process) and self.told(self.part) and self.run.all_serve


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
        return super().ready() and examining(self.run)


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
        if not gone(self.process):
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
        nodes = [node for node in self.run.rollout_nodes if any(lives_on(node, actor) for actor in serving)]
        self.node = self.random.choice(nodes)
        self.actors = [actor for actor in serving if lives_on(self.node, actor)]
        self.victim = f"node of {len(self.actors)} actors"
        self.run.nodes.remove_node(self.node, allow_graceful=False)
        self.run.rollout_nodes.remove(self.node)

    def relieve(self) -> None:
        self.run.rollout_nodes.append(self.run.add_rollout_node())

    def mended(self) -> bool:
        return all(map(gone, self.actors)) and self.run.all_serve


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


def _engine_of(actor: psutil.Process) -> psutil.Process:
    return next(child for child in actor.children(recursive=True) if "EngineCore" in " ".join(child.cmdline()))


KINDS = (ActorKilled, ActorHung, ActorLate, ActorKilledInEvaluation, RolloutNodeLost, Scaled)
ENGINE_KINDS = (EngineKilled, EngineStuck)

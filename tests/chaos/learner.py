"""Faults of the learner, its checkpoints, its nodes, and of the driver."""

import os
import signal
import time

from tests.chaos.fault import ChaosFault, examining, gone, steps_in, whole_checkpoints


class RankKilled(ChaosFault):
    """Learner rank killed."""

    family = "learner"

    def do(self) -> None:
        self.lineage = self.run.lineage
        self.run.the_process("ray::RankProcess").kill()

    def mended(self) -> bool:
        return self.run.lineage > self.lineage and steps_in(self.run, self.run.lineage)


class RankKilledInEvaluation(RankKilled):
    """Learner rank killed in mid-evaluation."""

    def ready(self) -> bool:
        return examining(self.run)


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
        if not gone(self.store):
            self.store.resume()


class CheckpointDamaged(RankKilled):
    """Newest checkpoint cut short, and a learner rank killed."""

    def ready(self) -> bool:
        return len(whole_checkpoints(self.run)) > 1

    def do(self) -> None:
        newest = whole_checkpoints(self.run)[0] / "training_state" / "tensors-00000.safetensors"
        os.truncate(newest, self.random.randrange(newest.stat().st_size))
        self.victim = newest.parents[1].name
        super().do()

    def mended(self) -> bool:
        return self.told("checkpoint", "failure") and super().mended()


class LearnerNodeLost(RankKilled):
    """Learner node removed, another one added."""

    hold_s = 2.0

    def do(self) -> None:
        self.lineage = self.run.lineage
        self.run.nodes.remove_node(self.run.learner_node, allow_graceful=False)

    def relieve(self) -> None:
        self.run.learner_node = self.run.add_learner_node()


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
        return self.run.lineage > self.lineage and steps_in(self.run, self.run.lineage) and self.run.all_serve


KINDS = (RankKilled, RankKilledInEvaluation, RankKilledInPublication, CheckpointDamaged, LearnerNodeLost, DriverKilled)

"""Faults of the rollout queue and the weight store."""

from tests.chaos.fault import ChaosFault, gone


class QueueKilled(ChaosFault):
    """Queue process killed."""

    family = "queue"
    title = "ray::ServedQueue"

    def do(self) -> None:
        self.process = self.run.the_process(self.title)
        self.harm()

    def harm(self) -> None:
        self.process.kill()

    def mended(self) -> bool:
        alive = self.run.processes(self.title)
        return gone(self.process) and bool(alive)


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
        self.process = self.run.the_process("ray::ServedQueue")
        self.process.suspend()

    def relieve(self) -> None:
        if not gone(self.process):
            self.process.resume()

    def mended(self) -> bool:
        return True  # steps go on: the schedule sees to that


KINDS = (QueueKilled, QueueHung, QueueSlow, StoreKilled, StoreHung)

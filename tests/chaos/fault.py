"""What happens to a run: the base of every kind of fault, and what kinds ask about a process and a run.

A kind says when it can strike (`ready`), strikes, is taken away after `hold_s` where it is one that passes, and says
from the outside when the run has mended it (`mended`). What must hold beside, that steps go on, is for the schedule.
"""

import random
import time
from pathlib import Path

import psutil

from tests.chaos.run import ChaoticRun
from unisd_rl.storage.checkpoints import DamagedCheckpoint, newest_first, open_verified

_EXAMINING = "evaluating version"


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
        since = [one for one in self.run.events if one["time_s"] > self.struck_s]
        happened = any((one["event"], one["component"]) == (event, part) for one in since)
        return happened or self.run.resumed_s > self.struck_s


def gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def lives_on(node, process: psutil.Process) -> bool:
    """Whether it is a process of this node: one that its raylet started."""
    raylets = {info.process.pid for infos in node.all_processes.values() for info in infos}
    return any(parent.pid in raylets for parent in process.parents())


def examining(run: ChaoticRun) -> bool:
    """Whether the last thing the driver said is that an evaluation begins."""
    return run.output.rstrip().rpartition("\n")[2].startswith(_EXAMINING)


def steps_in(run: ChaoticRun, lineage: int) -> bool:
    return any(row["lineage"] == lineage for row in run.metrics[-5:])


def whole_checkpoints(run: ChaoticRun) -> list[Path]:
    """The checkpoints that are whole, newest first."""
    found = []
    for path in newest_first(run.path / "checkpoints"):
        try:
            found.append(open_verified(path).path)
        except DamagedCheckpoint:
            continue
    return found

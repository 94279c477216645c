"""Disks that are full for a while."""

import resource

import psutil

from tests.chaos.fault import ChaosFault, gone, whole_checkpoints

_TRIFLE_BYTES = 64  # less than any file that is written as a whole


class LedgerFull(ChaosFault):
    """Disk full for the queue: the system refuses it every write."""

    family, hold_s = "queue", 5.0

    def do(self) -> None:
        self.process = self.run.the_process("ray::ServedQueue")
        limit_files_of(self.process, _TRIFLE_BYTES)

    def relieve(self) -> None:
        if not gone(self.process):
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
        if not gone(self.process):
            limit_files_of(self.process, resource.RLIM_INFINITY)

    def mended(self) -> bool:
        return gone(self.process) or any(path.stat().st_mtime > self.struck_s for path in whole_checkpoints(self.run))

    def _told_or_lost(self) -> bool:
        return self.told("checkpoint", "failure") or gone(self.process)


def limit_files_of(process: psutil.Process, nbytes: int) -> None:
    """A write of that process beyond so many bytes of a file fails, as on a disk that is full."""
    hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (nbytes if nbytes >= 0 else hard, hard))


KINDS = (LedgerFull, CheckpointDiskFull)

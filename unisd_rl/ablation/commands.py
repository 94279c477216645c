"""A command of the project in a process of its own, which tells what it used.

To import torch, transformers and DeepSpeed takes as long as an embedded run then trains. The processes are therefore
forks of one that has imported what a run in one process needs (`multiprocessing`'s fork server), unless they are to
start from nothing, as those that use a GPU must: CUDA does not survive a fork.
"""

import ctypes
import importlib
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

from unisd_rl.cli import limit_openmp_spinning
from unisd_rl.cluster.cores import Cores, bind_to

IMPORTED = (
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.qwen2.tokenization_qwen2",
    "bm25s",
    "scipy.stats",
    "actors.engines.transformers_engine",
    "learner.rank_process",
    "unisd_rl.driver.build",
    "unisd_rl.reporting.page",
    "unisd_rl.tracking.tensorboard",
    "unisd_rl.run",
    "unisd_rl.evaluate",
    "unisd_rl.replay",
)
"""Modules that a run in one process needs, by name: importing this module costs nothing."""

_KILLED_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class Command:
    """`python -m module arguments`."""

    module: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a command that ended used."""

    cpu_s: float
    peak_mib: float


class CommandProcess:
    """A command under way, on `cores` (empty: any), which prints to the end of `log`. It dies with this process."""

    def __init__(self, command: Command, cores: Cores, log: Path, forked: bool) -> None:
        context = fork_server() if forked else multiprocessing.get_context("spawn")
        self._told, tells = context.Pipe(duplex=False)
        self._process = context.Process(target=_perform, args=(command, cores, log, tells))
        with _ctrl_c_waiting():  # the server would end with a traceback while it imports
            self._process.start()
        tells.close()

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative where a signal ended it."""
        return self._process.exitcode

    def usage(self) -> Usage:
        """What it used, after its end; nothing of one that was killed."""
        with suppress(EOFError):
            if self._told.poll():
                used: Usage = self._told.recv()
                return used
        return Usage(0.0, 0.0)

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it now; returns when it is gone."""
        self._process.kill()
        self._process.join()


@contextmanager
def _ctrl_c_waiting() -> Iterator[None]:
    """In this block SIGINT waits, and for good in processes that are started in it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def fork_server() -> ForkServerContext:
    """The process that forks; the first command starts it and waits for its imports."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # as a run in one process sets it; DeepSpeed reads it when imported
    limit_openmp_spinning()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    return context


def _perform(command: Command, cores: Cores, log: Path, tells: Connection) -> None:
    """All of the new process."""
    _LIBC.prctl(_KILLED_WITH_PARENT, signal.SIGKILL)
    if cores:
        bind_to(cores)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        code = main_of(command)
    finally:
        tells.send(_used())
    sys.exit(code)


def main_of(command: Command) -> int:
    """The command in this process, which was started for it; returns its exit code."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    sys.argv = [command.module, *command.arguments]
    code: int = importlib.import_module(command.module).main()
    return code


def _used() -> Usage:
    """By this process and those that it started and that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_s = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return Usage(cpu_s, max(usage.ru_maxrss for usage in usages) / 1024)

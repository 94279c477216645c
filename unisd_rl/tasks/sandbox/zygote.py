"""The process that trials are forked from: warmed, without secrets, and itself never running foreign code.

    python -I -S -B -c "..." (pool.py starts it, with an empty environment) ; descriptor 0 is the control socket

First it answers with what its cage holds, then to each request (two descriptors: program and tests) with a verdict.
It goes when the control socket closes, whatever runs then. Programs and tests are never read here, so that no later
trial finds anything of an earlier one in its memory.
"""

import contextlib
import gc
import json
import os
import select
import shutil
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from unisd_rl.tasks.sandbox import candidate, judge, probe, system
from unisd_rl.tasks.sandbox.cage import FIRST_USER, Cage, enter_namespaces, mount_in_memory
from unisd_rl.tasks.sandbox.limits import Limits, Verdict
from unisd_rl.tasks.sandbox.wire import Channel

LONGEST_REPLY = 1 << 16
_PROBE_S = 30.0


class EvaluatorGone(Exception):
    """The control socket closed."""


def main(limits: Limits, folder: str, slot: int) -> None:
    """Serve trials until the evaluator goes."""
    control = socket.socket(fileno=os.dup(0))
    os.environ.clear()  # Python itself may have set a locale
    candidate.discard_output()
    candidate.preload()
    zygote = Zygote(control, limits, folder, slot)
    control.sendall(json.dumps({"holds": zygote.holds()}).encode())
    gc.collect()
    gc.freeze()
    try:
        while True:
            message, descriptors, *_ = socket.recv_fds(control, 1, 2)
            if not message:
                return
            control.sendall(json.dumps(zygote.trial(*descriptors)).encode())
    except (EvaluatorGone, OSError):
        return
    finally:
        zygote.remove_folder()


class Zygote:
    """Starts and ends the two processes of each trial."""

    def __init__(self, control: socket.socket, limits: Limits, folder: str, slot: int) -> None:
        self._control = control
        self._limits = limits
        self._folder = folder
        self._users = 2 * slot, 2 * slot + 1  # of the program and of its tests
        owner = FIRST_USER + self._users[0] if os.geteuid() == 0 else os.geteuid()
        apart = enter_namespaces()
        self._in_memory = apart and mount_in_memory(folder, limits.folder_bytes, owner)
        if not self._in_memory and os.geteuid() == 0:
            os.chown(folder, owner, owner)
        self._cage = Cage(limits, folder)
        system.prctl(system.PR_SET_DUMPABLE, 0)

    def holds(self) -> list[str]:
        """The protections that hold, as a caged process found."""
        reader, writer = os.pipe()

        def report() -> None:
            self._cage.enter(self._users[0], (writer,))
            os.write(3, json.dumps(probe.held(self._folder)).encode())

        child = _forked(report)
        os.close(writer)
        try:
            found = json.loads(self._awaited(reader, _PROBE_S) or b"[]")
        finally:
            os.close(reader)
            _end(child)
        return [*found, "disk"] if self._in_memory or not self._cage.lets_write else found

    def trial(self, program: int, tests: int) -> dict[str, Any]:
        """One trial: a verdict, or under `error` what went wrong with the sandbox itself. Closes both descriptors."""
        here, there = socket.socketpair()
        reader, writer = os.pipe()

        def run_program() -> None:
            self._cage.enter(self._users[0], (there.fileno(), program))
            candidate.serve(self._channel(), _content(4))

        def run_tests() -> None:
            self._cage.enter(self._users[1], (here.fileno(), tests, writer))
            result = judge.verdict(self._channel(), _content(4))
            os.write(5, json.dumps(asdict(result)).encode())

        children = [_forked(run_program), _forked(run_tests)]
        for descriptor in (program, tests, writer, here.detach(), there.detach()):
            os.close(descriptor)
        try:
            line = self._awaited(reader, self._limits.wall_s)
        finally:
            os.close(reader)
            statuses = [_end(child) for child in children]
            self._empty_folder()
        return _outcome(line, statuses[0], statuses[1], self._limits)

    def remove_folder(self) -> None:
        """Remove the temporary folder, which an evaluator that was killed cannot."""
        if self._in_memory:
            system.unmount(os.fsencode(self._folder))
        shutil.rmtree(self._folder, ignore_errors=True)

    def _channel(self) -> Channel:
        return Channel(socket.socket(fileno=3), self._limits.message_bytes)

    def _awaited(self, reader: int, timeout_s: float) -> bytes | None:
        """All that is written to a pipe until it closes; None if it does not within the time."""
        deadline, read = time.monotonic() + timeout_s, b""
        watch = select.poll()
        watch.register(reader, select.POLLIN)
        watch.register(self._control, select.POLLHUP)
        while (left_s := deadline - time.monotonic()) > 0 and len(read) < LONGEST_REPLY:
            for descriptor, _ in watch.poll(1000 * left_s):
                if descriptor == self._control.fileno():
                    raise EvaluatorGone
                part = os.read(reader, LONGEST_REPLY)
                if not part:
                    return read
                read += part
        return None

    def _empty_folder(self) -> None:
        """Remove what the program left. Where it could make folders it is root's or the user's own to remove."""
        for entry in os.scandir(self._folder):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)


def _outcome(line: bytes | None, program: int, tests: int, limits: Limits) -> dict[str, Any]:
    """The reply that follows from the tests' verdict and the wait statuses of both processes."""
    if line is None:
        return asdict(Verdict(False, f"not through after {limits.wall_s:g} s"))
    if line:
        verdict = json.loads(line)
        if verdict["reason"] == judge.PROGRAM_ENDED and _out_of_time(program):
            verdict["reason"] = f"the program computed for more than {limits.cpu_s} s"
        return dict(verdict)
    if _out_of_time(tests):
        return asdict(Verdict(False, f"the tests computed for more than {limits.cpu_s} s on what the program returned"))
    return {"error": f"the tests' process ended without a verdict (wait status {tests})"}


def _out_of_time(status: int) -> bool:
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU


def _forked(work: Callable[[], None]) -> int:
    """A child process that does `work` and exits, whatever happens; its id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    finally:
        os._exit(0)


def _end(child: int) -> int:
    """Kill a child and its process group, and wait for it; its wait status."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):  # no group of its own yet, or all of it has ended
            kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def _content(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        file.seek(0)
        return file.read()

"""The evaluator's side of the sandbox: a pool of zygotes, one for every trial that may run at a time."""

import atexit
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path

from unisd_rl.cluster.cores import available_cores
from unisd_rl.errors import RunFailed
from unisd_rl.tasks.sandbox.limits import Limits, Trial, Verdict
from unisd_rl.tasks.sandbox.probe import GAPS, REQUIRED
from unisd_rl.terminal import say

START_TIMEOUT_S = 60.0
SLOT_TIMEOUT_S = 3600.0
GRACE_S = 30.0  # beyond a trial's wall time, on a busy machine, before the zygote counts as lost
_ROOT = Path(__file__).parents[3]
_START = (
    "import sys; root, limits, folder, slot = sys.argv[1:]; sys.path.insert(0, root); import json;"
    "from unisd_rl.tasks.sandbox.limits import Limits; from unisd_rl.tasks.sandbox.zygote import main;"
    "sys.path.remove(root); main(Limits(**json.loads(limits)), folder, int(slot))"
)


class SandboxError(RunFailed):
    """The sandbox itself failed: no verdict, so no answer counts as wrong because of it."""


class Sandbox:
    """Judges trials, as many at a time as it has slots; any number of threads may ask."""

    def __init__(self, limits: Limits | None = None, slots: int | None = None) -> None:
        self.slots = slots or len(available_cores())
        self._limits = limits or Limits()
        self._free: queue.LifoQueue[_Zygote | int] = queue.LifoQueue()
        self._closed = threading.Event()
        for slot in reversed(range(self.slots)):
            self._free.put(slot)  # a number stands for a zygote that has not been started

    def judge(self, trial: Trial) -> Verdict:
        """Run a trial; waits for a free slot first.

        Raises:
            SandboxError: the sandbox failed or cannot hold programs on this machine.
        """
        zygote = self._borrowed()
        try:
            verdict = zygote.judge(trial)
        except BaseException:
            zygote.close()
            self._free.put(zygote.slot)  # the next one starts afresh
            raise
        if self._closed.is_set():
            zygote.close()
        else:
            self._free.put(zygote)
        return verdict

    def gaps(self) -> tuple[str, ...]:
        """One sentence for each protection that does not hold on this machine."""
        zygote = self._borrowed()
        self._free.put(zygote)
        return tuple(sentence for name, sentence in GAPS.items() if name not in zygote.holds)

    def close(self) -> None:
        """End all zygotes, those in the middle of a trial when it is over."""
        self._closed.set()
        with suppress(queue.Empty):
            while True:
                zygote = self._free.get_nowait()
                if isinstance(zygote, _Zygote):
                    zygote.close()

    def _borrowed(self) -> "_Zygote":
        if self._closed.is_set():
            raise SandboxError("the sandbox has been closed")
        try:
            free = self._free.get(timeout=SLOT_TIMEOUT_S)
        except queue.Empty as error:
            raise SandboxError(
                f"none of the sandbox's {self.slots} slots became free in {SLOT_TIMEOUT_S:g} s"
            ) from error
        if isinstance(free, _Zygote):
            return free
        try:
            return _Zygote(self._limits, free)
        except BaseException:
            self._free.put(free)
            raise


class _Zygote:
    """One zygote process and the socket to it."""

    def __init__(self, limits: Limits, slot: int) -> None:
        self.slot = slot
        self._limits = limits
        self._folder = tempfile.mkdtemp(prefix="unisd-trial-")
        self._control, theirs = socket.socketpair()
        arguments = (str(_ROOT), json.dumps(asdict(limits)), self._folder, str(slot))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _START, *arguments],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,
            )
        try:
            self.holds = frozenset(self._reply(START_TIMEOUT_S, "start")["holds"])
            for name in REQUIRED:
                if name not in self.holds:
                    raise SandboxError(f"programs cannot be tested safely on this machine: {GAPS[name]}")
        except BaseException:
            self.close()
            raise

    def judge(self, trial: Trial) -> Verdict:
        """The verdict on one trial."""
        tests = json.dumps({"setup": trial.setup, "names": trial.names, "tests": trial.tests})
        program = trial.program.encode("utf-8", "surrogatepass")
        descriptors = [_in_memory(program), _in_memory(tests.encode())]
        try:
            socket.send_fds(self._control, [b"t"], descriptors)
        except OSError as error:
            raise SandboxError(f"the sandbox's process is gone ({error.strerror})") from error
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        reply = self._reply(self._limits.wall_s + GRACE_S, "give a verdict")
        if "error" in reply:
            raise SandboxError(str(reply["error"]))
        return Verdict(**reply)

    def close(self) -> None:
        """End the process and remove its folder. What it had started dies with it."""
        self._control.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _reply(self, timeout_s: float, what: str) -> dict:
        self._control.settimeout(timeout_s)
        try:
            message = self._control.recv(1 << 17)
        except TimeoutError as error:
            raise SandboxError(f"the sandbox's process did not {what} within {timeout_s:g} s") from error
        except OSError as error:
            raise SandboxError(f"the sandbox's process is gone ({error.strerror})") from error
        if not message:
            raise SandboxError(f"the sandbox's process ended before it could {what}")
        return dict(json.loads(message))


def _in_memory(content: bytes) -> int:
    descriptor = os.memfd_create("trial", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    return descriptor


@cache
def shared_sandbox() -> Sandbox:
    """The sandbox of this process, with a slot for every core it may use; says on stderr what does not hold.

    Raises:
        SandboxError: this machine cannot hold programs.
    """
    sandbox = Sandbox()
    atexit.register(sandbox.close)
    for sentence in sandbox.gaps():
        say(f"note: in the sandbox {sentence}")
    return sandbox

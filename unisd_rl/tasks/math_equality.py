"""Whether two mathematical texts are equal, by math-verify, in processes of their own.

    evaluator's threads -- question, a line of JSON --> process (`math_process.py`): parse both, compare
                        <-- true or false, or nothing: it was ended

sympy may compute for ever, and in as much memory as there is, with what a model wrote (`9^{9^{9^9}}`). So a question
has the sandbox's limits: of processor time and memory in the process, and on the wall clock outside. Where a limit
ends it, the two are not equal, and the next question gets a fresh process. math-verify's own timer is off: it is a
signal, which only a main thread can take.
"""

import atexit
import json
import queue
import select
import subprocess
import sys
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path

from unisd_rl.cluster.cores import available_cores
from unisd_rl.tasks.sandbox.limits import Limits
from unisd_rl.tasks.sandbox.pool import SLOT_TIMEOUT_S, START_TIMEOUT_S, SandboxError

_ROOT = Path(__file__).parents[2]
_START = (
    "import sys; root, cpu_s, memory = sys.argv[1:]; sys.path.insert(0, root);"
    "from unisd_rl.tasks.math_process import main; main(int(cpu_s), int(memory))"
)
_READY = b"ready\n"


@lru_cache(maxsize=1 << 16)
def mathematically_equal(left: str, right: str) -> bool:
    """Whether both are LaTeX or plain mathematics and equal; False where either is neither, or it takes too long.

    Raises:
        SandboxError: the processes do not start.
    """
    return _shared().ask({"left": left, "right": right})


class MathProcesses:
    """One process for every question that may be asked at a time, started when it is needed."""

    def __init__(self, limits: Limits, slots: int) -> None:
        self._limits = limits
        self._free: queue.LifoQueue[_MathProcess | None] = queue.LifoQueue()
        for _ in range(slots):
            self._free.put(None)

    def ask(self, question: Mapping[str, str]) -> bool:
        """The answer of a process; waits for a free one first."""
        try:
            process = self._free.get(timeout=SLOT_TIMEOUT_S)
        except queue.Empty as error:
            raise SandboxError(f"no process that compares answers became free in {SLOT_TIMEOUT_S:g} s") from error
        answer: bool | None = None
        try:
            process = process or _MathProcess(self._limits)
            answer = process.ask(question, self._limits.wall_s)
        finally:
            if answer is None and process is not None:
                process.close()
            self._free.put(None if answer is None else process)
        return bool(answer)

    def close(self) -> None:
        """End the processes that are free."""
        while not self._free.empty():
            if process := self._free.get_nowait():
                process.close()


class _MathProcess:
    def __init__(self, limits: Limits) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", _START, str(_ROOT), str(limits.cpu_s), str(limits.memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        if self._line(START_TIMEOUT_S) != _READY:
            self.close()
            raise SandboxError(f"the process that compares answers did not start within {START_TIMEOUT_S:g} s")

    def ask(self, question: Mapping[str, str], timeout_s: float) -> bool | None:
        """The answer; None where the process ended, or took longer."""
        assert self._process.stdin is not None, "it is a pipe"
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
        except OSError:
            return None
        line = self._line(timeout_s)
        return json.loads(line) if line.endswith(b"\n") else None

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.communicate()

    def _line(self, timeout_s: float) -> bytes:
        """What the process says next, a short line; nothing where it says nothing in time."""
        assert self._process.stdout is not None, "it is a pipe"
        poll = select.poll()  # select.select takes no descriptor above 1023
        poll.register(self._process.stdout, select.POLLIN)
        return self._process.stdout.readline() if poll.poll(1000 * timeout_s) else b""


@cache
def _shared() -> MathProcesses:
    processes = MathProcesses(Limits(), len(available_cores()))
    atexit.register(processes.close)
    return processes

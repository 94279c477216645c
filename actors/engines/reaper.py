"""Ends an engine's processes when the process that started them is killed, also while they start.

vLLM's engine process does not notice that its parent is gone, and would keep its memory, or its GPU, for ever. A small
process of its own waits for the end of a pipe, which the kernel closes with whatever holds it, and then kills every
process that has the engine's mark in its environment: whoever was started after the mark was set, and all below it.
Run as a script it is that process. Linux only.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from uuid import uuid4

_MARK = "UNISD_ENGINE"
_POLL_S = 0.05


class Reaper:
    """Watches over the processes that this one starts from now on, by `exec` (vLLM does in a Ray actor)."""

    def __init__(self) -> None:
        mark = f"{_MARK}={uuid4().hex}"
        command = [sys.executable, "-S", "-E", __file__, mark]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, close_fds=True)
        os.environ[_MARK] = mark.partition("=")[2]  # after the start: it is not one of them itself

    def close(self) -> None:
        """Kill what is still there. May be called twice."""
        os.environ.pop(_MARK, None)
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.communicate(timeout=10.0)


def _kill_at_end_of_input(mark: bytes) -> None:
    sys.stdin.read()
    while found := _marked(mark):  # again until none is left: one may have started another meanwhile
        for descriptor in found:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            os.close(descriptor)
        time.sleep(_POLL_S)


def _marked(mark: bytes) -> list[int]:
    """Descriptors, which unlike numbers are never reused, of the living processes with this mark."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):  # it ended meanwhile, or is another user's
            descriptor = os.pidfd_open(int(name))
            with open(f"/proc/{name}/environ", "rb") as environment:  # empty once it is killed
                if mark in environment.read().split(b"\0"):
                    found.append(descriptor)
                    continue
            os.close(descriptor)
    return found


if __name__ == "__main__":
    _kill_at_end_of_input(sys.argv[1].encode())

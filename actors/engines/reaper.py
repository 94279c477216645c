"""Ends an engine's processes when the process that started them is killed.

vLLM's engine process does not notice that its parent is gone, and would keep its memory, or its GPU,
for ever. A small process of its own waits for the end of a pipe, which the kernel closes with
whatever holds it, and then kills. Run as a script it is that process.
"""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys


class Reaper:
    """Watches over the multiprocessing children that exist now. Linux only."""

    def __init__(self) -> None:
        # Descriptors of processes, unlike their numbers, are never reused for another process.
        watched = [os.pidfd_open(child.pid) for child in multiprocessing.active_children() if child.pid]
        command = [sys.executable, "-S", "-E", __file__, *map(str, watched)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, pass_fds=watched, start_new_session=True, close_fds=True
        )
        for descriptor in watched:
            os.close(descriptor)

    def close(self) -> None:
        """Kill what is still there."""
        self._process.communicate(timeout=10.0)


def _kill_at_end_of_input(descriptors: list[int]) -> None:
    sys.stdin.read()
    for descriptor in descriptors:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)


if __name__ == "__main__":
    _kill_at_end_of_input([int(argument) for argument in sys.argv[1:]])

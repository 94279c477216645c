"""The memory of a process and all that it started, sampled while it runs.

PSS: a page that several processes share, such as one of Ray's object store, is divided among them, so that the sum
counts it once.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_SAMPLE_S = 2.0
_SHARE = 0.01
"""Of the time that samples may take: to count the pages of a dozen processes takes a core a third of a second."""


@dataclass(frozen=True)
class Footprint:
    """Peaks in bytes."""

    together: float
    """The highest sum over all processes at one time."""
    largest: float
    """The highest of one process whose command line begins with a given name; of the first process without one."""


def run_sampled(
    command: Sequence[str], environment: Mapping[str, str], log: Path, timeout_s: float, process: str | None = None
) -> Footprint:
    """Run a command to its end, its output in `log`, and say what memory it took.

    `process`: what the command line of the process begins with that is looked at by itself.

    Raises:
        SystemExit: it failed, or took longer than `timeout_s` seconds.
    """
    together = largest = 0.0
    deadline_s = time.monotonic() + timeout_s
    with log.open("w") as file:
        started = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **environment}, start_new_session=True
        )
        try:
            while started.poll() is None:
                began_s = time.monotonic()
                sampled = _sample(started.pid)
                took_s = time.monotonic() - began_s
                together = max(together, sum(sampled.values()))
                largest = max([largest, *(pss for name, pss in sampled.items() if _is(name, process, started.pid))])
                if time.monotonic() > deadline_s:
                    raise SystemExit(f"{command[0]} took longer than {timeout_s:g} s; its output is in {log}")
                _wait(started, max(_SAMPLE_S, took_s / _SHARE))
        finally:
            if started.poll() is None:
                os.killpg(started.pid, signal.SIGTERM)
                started.wait(60)
    if started.returncode:
        raise SystemExit(f"{' '.join(command[:4])} ended with {started.returncode}:\n{log.read_text()[-3000:]}")
    return Footprint(together, largest)


def _wait(started: subprocess.Popen[bytes], seconds: float) -> None:
    """Until it has ended, at most so long."""
    with suppress(subprocess.TimeoutExpired):
        started.wait(seconds)


def _is(name: tuple[int, str], process: str | None, first: int) -> bool:
    pid, line = name
    return pid == first if process is None else line.startswith(process)


def _sample(pid: int) -> dict[tuple[int, str], float]:
    found = {}
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return {}
    for each in processes:
        try:
            found[each.pid, " ".join(each.cmdline())] = pss_bytes(each.pid)
        except (psutil.Error, OSError):
            continue  # it ended meanwhile
    return found


def pss_bytes(pid: int) -> float:
    """Proportional set size of one process.

    Raises:
        OSError: it is gone.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024.0 * int(line.split()[1])
    return 0.0

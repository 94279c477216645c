"""The memory of a process and all that it started, sampled while its first steps run.

PSS: a page that several processes share, such as one of Ray's object store, is divided among them, so that the sum
counts it once. To count the pages of a dozen processes takes a core a third of a second, so that it is done in steps
that are not timed: `settled` says when to end.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_SAMPLE_S = 1.0


@dataclass(frozen=True)
class Footprint:
    """Peaks in bytes."""

    together: float
    """The highest sum over all processes at one time."""
    largest: float
    """The highest of one process whose command line begins with a given name; of the first process without one."""


def run_sampled(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    timeout_s: float,
    settled: Callable[[], bool],
    process: str | None = None,
) -> Footprint:
    """Run a command to its end, its output in `log`, and say what memory it took until it had `settled`.

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
            while started.poll() is None and not settled():
                sampled = _sample(started.pid)
                together = max(together, sum(sampled.values()))
                largest = max([largest, *(pss for name, pss in sampled.items() if _is(name, process, started.pid))])
                if time.monotonic() > deadline_s:
                    break
                with suppress(subprocess.TimeoutExpired):
                    started.wait(_SAMPLE_S)
            with suppress(subprocess.TimeoutExpired):
                started.wait(max(0.0, deadline_s - time.monotonic()))
        finally:
            if started.poll() is None:
                os.killpg(started.pid, signal.SIGTERM)
                started.wait(60)
    if time.monotonic() > deadline_s:
        raise SystemExit(f"{command[0]} took longer than {timeout_s:g} s; its output is in {log}")
    if started.returncode:
        raise SystemExit(f"{' '.join(command[:4])} ended with {started.returncode}:\n{log.read_text()[-3000:]}")
    return Footprint(together, largest)


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

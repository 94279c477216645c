"""What the cage really holds on this machine: each protection is tried, from inside, by a process that is then ended."""

import contextlib
import importlib
import os
import signal
import socket
import tempfile
from collections.abc import Callable

# A protection and what to say where it is missing.
GAPS = {
    "processes": "a program could start processes",
    "library": "a program cannot import the whole standard library: install Python where every user may read it",
    "network": "a program could open network connections",
    "files": "a program could write files outside its temporary folder, with the rights of its user",
    "reading": "a program could read files outside the standard library, with the rights of its user",
    "signals": "a program could end other processes of its user",
    "memory": "a program could read other processes of its user",
    "disk": "a program could fill the disk that holds the temporary folder, until its time is up",
}
REQUIRED = ("processes", "library")


def held(inside: str) -> list[str]:
    """Run in a caged process whose folder is `inside`: the protections that hold (`disk` is the zygote's to know)."""
    parent = os.getppid()
    attempts: dict[str, Callable[[], object]] = {
        "processes": _fork,
        "network": lambda: socket.create_connection(("127.0.0.1", 9), timeout=0.1),
        "files": lambda: tempfile.TemporaryFile(dir=os.path.dirname(inside)),
        "reading": lambda: open("/etc/passwd", "rb").close(),
        "signals": lambda: os.kill(parent, 0),
        "memory": lambda: open(f"/proc/{parent}/mem", "rb").close(),
    }
    holds = [name for name, attempt in attempts.items() if _refused(attempt)]
    with contextlib.suppress(ImportError, OSError):
        importlib.import_module("colorsys")  # small, and nothing that is loaded already
        holds.append("library")
    return holds


def _refused(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except ConnectionRefusedError:
        return False  # the network answered
    except OSError:
        return True
    return False


def _fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

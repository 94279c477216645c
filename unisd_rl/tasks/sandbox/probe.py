"""The probe of what the cage really holds on this machine: a caged process tries each protection, and is then ended."""

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
REQUIRED = ("library", "processes")


def held(inside: str) -> list[str]:
    """Run in a caged process whose folder is `inside`: the protections that hold (`disk` is the zygote's to know)."""
    parent = os.getppid()
    attempts: dict[str, Callable[[], object]] = {
        "processes": _fork,
        "network": _connect,
        "files": lambda: _create(os.path.dirname(inside)),
        "reading": lambda: os.close(os.open("/etc/passwd", os.O_RDONLY)),
        "signals": lambda: os.kill(parent, 0),
        "memory": lambda: os.close(os.open(f"/proc/{parent}/mem", os.O_RDONLY)),
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
    except ImportError:  # nothing is known where the library cannot be read
        return False
    return False


def _connect() -> None:
    with socket.socket() as connection:
        connection.connect(("127.0.0.1", 9))


def _create(folder: str) -> None:
    descriptor, path = tempfile.mkstemp(dir=folder)
    os.close(descriptor)
    os.unlink(path)


def _fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

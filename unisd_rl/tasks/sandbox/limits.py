"""Trials of programs: their limits and their verdicts."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use. The tests beside it have the same."""

    cpu_s: int = 10
    """Seconds of computing for the program, and as much for its tests, however busy the machine is."""
    wall_s: float = 30.0
    """Seconds on the wall clock for both together: ends programs that wait rather than compute."""
    memory_bytes: int = 1 << 30
    """Address space of each of the two processes."""
    file_bytes: int = 1 << 20
    """Size of one file."""
    folder_bytes: int = 16 << 20
    """Size of the temporary folder, where it can be kept in memory."""
    open_files: int = 64
    """Open files at a time."""
    message_bytes: int = 32 << 20
    """Size of the values that pass between program and tests in one call."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A program, and the tests that it must pass.

    `setup` and `tests` are Python run beside the program, not in it; between the two, the program's globals named in
    `names` become visible to the tests, and nothing else of it does.
    """

    program: str
    setup: str
    names: tuple[str, ...]
    tests: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether every test passed, and if not, what was first to fail."""

    passed: bool
    reason: str

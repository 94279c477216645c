"""Log files: each process of a run has one of its own, and none writes to the screen. What a failure began with."""

import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from typing_extensions import override


def log_path(run_dir: Path, name: str) -> Path:
    """The log file of the process `name`."""
    return run_dir / "logs" / f"{name}.log"


def redirect_output(path: Path) -> None:
    """Append standard output and error of this process, and of those it starts from now on, to `path`.

    What Python prints here and the disk does not take is lost; nobody who prints is told.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.BufferedWriter(stream), "utf-8", "backslashreplace", line_buffering=True)
        for stream in (_LossyStream(descriptor, "w", closefd=False) for descriptor in (1, 2))
    )


class _LossyStream(io.FileIO):
    """A stream that never fails: a log with a gap is better than a run that ends for the sake of its log."""

    @override
    def write(self, data: Any, /) -> int:
        with suppress(OSError):
            super().write(data)
        return len(data)


_TAIL_BYTES = 1 << 20
_PREFIX = re.compile(r"^(\([^)]*pid=\d+\)\s?)?((DEBUG|INFO|WARNING|ERROR|CRITICAL) [\d-]+ [\d:.]+ \[[^\]]*\]\s?)?")
_TRACEBACK = "Traceback (most recent call last):"
_LINKS = ("The above exception was the direct cause of", "During handling of the above exception")
_IGNORED = "Exception ignored in"  # Python's word for what a destructor raises at the end of a process
_CONSEQUENCES = ("EngineDeadError", "Engine core initialization failed")  # vLLM's, in the process that asked
_COMPILERS = ("CompileError", "gcc", "g++", "clang")
_COMPLAINT = re.compile(r"\berror: (.+)$")
_LONGEST_CAUSE = 300  # characters


def innermost_cause(path: Path) -> str | None:
    """What the last failure in a log began with: the first exception of its chain of tracebacks, or, where a compiler
    failed, the compiler's own first complaint. None where there is no traceback.

    A process that vLLM starts says this in its log, and to the one that started it only that it died.
    """
    try:
        text = path.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")
    except OSError:
        return None
    lines = [_PREFIX.sub("", line) for line in text.splitlines()]
    raised = [cause for cause in _first_of_each_chain(lines) if not any(word in cause for word in _CONSEQUENCES)]
    if not raised:
        return None
    complaints = [found[1] for line in lines if (found := _COMPLAINT.search(line))]
    if complaints and any(word in raised[-1] for word in _COMPILERS):
        return f"a compiler that is called at run time: {complaints[0]}"[:_LONGEST_CAUSE]
    return raised[-1][:_LONGEST_CAUSE]


def _first_of_each_chain(lines: Sequence[str]) -> Iterator[str]:
    """The exception of each traceback that is not the consequence of the one before it."""
    start = 0
    for number, line in enumerate(lines):
        if line.startswith(_TRACEBACK):
            between = lines[start:number]
            ignored = any(before.startswith(_IGNORED) for before in between[-1:])
            if not ignored and not any(before.startswith(_LINKS) for before in between):
                after_frames = (after for after in lines[number + 1 :] if after.strip() and not after[0].isspace())
                yield next(after_frames, "").strip()
            start = number

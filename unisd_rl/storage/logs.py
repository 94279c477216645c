"""Log files: each process of a run has one of its own, and none writes to the screen. What a failure began with.

A log of 16 MiB rolls over (`rolling.py`); the last four parts before the newest are kept.
"""

import io
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from typing_extensions import override

from unisd_rl.storage.rolling import closed_parts, next_part, open_parts, place_before_end

_PART_BYTES, _PARTS_KEPT, _CHECK_S = 16 << 20, 4, 30.0


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
    keep_bounded(path)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.BufferedWriter(stream), "utf-8", "backslashreplace", line_buffering=True)
        for stream in (_LossyStream(descriptor, "w", closefd=False) for descriptor in (1, 2))
    )


def keep_bounded(path: Path) -> None:
    """Roll the log over whenever it is full, in a thread of its own, for the rest of this process."""

    def watch() -> None:
        while True:
            time.sleep(_CHECK_S)
            with suppress(OSError):
                roll_log(path)

    threading.Thread(target=watch, name="log", daemon=True).start()


def roll_log(path: Path) -> None:
    """Put what is in a full log aside, and throw away the oldest parts.

    It is copied and emptied, not renamed: processes that this one started write to the open file, at its end. What they
    write between the two is lost.

    Raises:
        OSError: the disk does not take the copy; the log stays as it is.
    """
    if path.stat().st_size < _PART_BYTES:
        return
    part = next_part(path)
    try:
        shutil.copyfile(path, part)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    os.truncate(path, 0)
    for old in list(closed_parts(path).values())[:-_PARTS_KEPT]:
        old.unlink(missing_ok=True)


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
        text = _tail(path).decode(errors="replace")
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


def _tail(path: Path) -> bytes:
    first, offset = place_before_end(path, _TAIL_BYTES)
    text = b""
    for part, file in open_parts(path, first):
        file.seek(offset if part == first else 0)
        text += file.read()
    return text


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

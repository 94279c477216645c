"""Log files: each process of a run has one of its own, and none writes to the screen."""

import io
import os
import sys
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

"""Where the processes of a run write: one file each, not the screen."""

import os
import sys
from pathlib import Path


def log_path(run_dir: Path, name: str) -> Path:
    """The log file of the process of this name."""
    return run_dir / "logs" / f"{name}.log"


def redirect_output(path: Path) -> None:
    """Append standard output and error of this process, and of those it starts from now on, to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)

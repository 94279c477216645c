"""What every benchmark leaves: tables and ratios on the screen, and `--json FILE` with machine, rows and ratios."""

import json
import os
import platform
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_WIDE = 200  # columns where nobody watches


def screen() -> Console:
    """A terminal as it is; a file or a pipe wide enough for every column."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)


def machine(**more: Any) -> dict[str, Any]:
    """What the figures were taken on, and how busy it was before."""
    return {
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        **more,
    }


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """One table; numbers with three significant digits."""
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*map(cell, row))
    screen().print(table)


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value)


def result_file(name: str) -> Path:
    """The file of `--json`: one that is not there yet, or an earlier benchmark's, which is replaced.

    Raises:
        ArgumentTypeError: it holds something else, or there is no such folder.
    """
    file = Path(name).expanduser()
    if not file.parent.is_dir():
        raise ArgumentTypeError(f"{str(file.parent)!r} is not a folder")
    if file.exists() and not _is_result(file):
        raise ArgumentTypeError(f"{name!r} is there and holds no results of a benchmark: name another file")
    return file


def _is_result(file: Path) -> bool:
    try:
        return {"machine", "rows", "ratios"} <= json.loads(file.read_text(encoding="utf-8")).keys()
    except (OSError, ValueError, AttributeError):
        return False


def finish(
    found_on: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], ratios: Mapping[str, float], file: Path | None
) -> None:
    """Print the ratios and write the file, if one is asked for."""
    for name, ratio in ratios.items():
        screen().print(f"{name} {ratio:.3f}")
    if file is not None:
        found = {"machine": dict(found_on), "rows": list(rows), "ratios": dict(ratios)}
        file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

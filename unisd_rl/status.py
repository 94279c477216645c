"""The command that shows how a run stands: `python -m unisd_rl.status RUN [--watch]`, from any machine that sees RUN.

Only the run's files are read: a running, a finished and a killed run alike. Exit codes: `cli.exit_code`.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live

from unisd_rl.cli import CliParser, exit_code, user_path
from unisd_rl.driver.status import read_status
from unisd_rl.storage.files import is_locked
from unisd_rl.storage.recorded_run import check_is_run

PROGRAM = "python -m unisd_rl.status"
_DESCRIPTION = """Show how a run stands: its step, loss, accuracy, actors, who waits for whom, and its last fault. RUN
may be of another machine, as long as its folder is seen here."""
_EVERY_S = 2.0
_WIDE = 1000  # columns: no line is cut on a pipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Show; returns the exit code."""
    return exit_code(_status, arguments)


def _status(arguments: Sequence[str]) -> int:
    parser = CliParser(PROGRAM, "RUN [--watch]", _DESCRIPTION)
    parser.add_argument("run", type=user_path, metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--watch", action="store_true", help=f"show it anew every {_EVERY_S:g} s while the run is alive"
    )
    options = parser.parse_args(arguments)
    run: Path = options.run
    check_is_run(run)
    terminal = Console(highlight=False)
    if not terminal.is_terminal:
        terminal = Console(highlight=False, width=_WIDE)
    if options.watch and terminal.is_terminal:
        with Live(read_status(run), console=terminal, refresh_per_second=1) as live:
            while is_locked(run):
                time.sleep(_EVERY_S)
                live.update(read_status(run))
        return 0
    terminal.print(read_status(run))
    return 0


if __name__ == "__main__":
    sys.exit(main())

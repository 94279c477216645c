"""The command that writes the page of a run, finished or not: `python -m unisd_rl.report RUN`.

RUN is the run's folder; the page is RUN/report.html. A run writes it itself at every evaluation and at its end. Exit
codes: `cli.exit_code`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from unisd_rl.cli import CliParser, exit_code, user_path
from unisd_rl.errors import RunFailed

PROGRAM = "python -m unisd_rl.report"
_DESCRIPTION = """Write RUN/report.html: accuracy, curves, answers before and after, and tokens coloured by what moved
them. One file that needs no network."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; returns the exit code."""
    return exit_code(_report, arguments)


def _report(arguments: Sequence[str]) -> int:
    parser = CliParser(PROGRAM, "RUN", _DESCRIPTION)
    parser.add_argument("run", type=user_path, metavar="RUN", help="the run's folder")
    run: Path = parser.parse_args(arguments).run
    from unisd_rl.reporting.page import write_report  # drawing

    try:
        print(write_report(run))
    except OSError as error:
        raise RunFailed(f"the report of {run} cannot be written: {error}") from error
    return 0


if __name__ == "__main__":
    sys.exit(main())

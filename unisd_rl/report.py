"""The command that writes the page and the timeline of a run, finished or not: `python -m unisd_rl.report RUN`.

RUN is the run's folder; they are RUN/report.html and RUN/timeline.json.gz. A run writes both at its end, and the page
at every evaluation. Exit codes: `cli.exit_code`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from unisd_rl.cli import CliParser, exit_code, user_path
from unisd_rl.errors import RunFailed

PROGRAM = "python -m unisd_rl.report"
_DESCRIPTION = """Write RUN/report.html: accuracy, curves, answers before and after, and tokens coloured by what moved
them, one file that needs no network; and RUN/timeline.json.gz for Perfetto: what each process did when."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; returns the exit code."""
    return exit_code(_report, arguments)


def _report(arguments: Sequence[str]) -> int:
    parser = CliParser(PROGRAM, "RUN", _DESCRIPTION)
    parser.add_argument("run", type=user_path, metavar="RUN", help="the run's folder")
    run: Path = parser.parse_args(arguments).run
    from unisd_rl.reporting.page import write_report  # drawing
    from unisd_rl.storage.timeline import write_timeline

    try:
        print(write_report(run))
        if (timeline := write_timeline(run)) is not None:
            print(timeline)
    except OSError as error:
        raise RunFailed(f"the report of {run} cannot be written: {error}") from error
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The command that lays several runs over one another: `python -m unisd_rl.compare RUN RUN ...`.

Writes one page: curves over one another, paired intervals of the last evaluations on the same problems, the settings
that differ. Exit codes: `cli.exit_code`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from unisd_rl.cli import CliParser, exit_code, user_path
from unisd_rl.errors import RunFailed, UserError

PROGRAM = "python -m unisd_rl.compare"
_DESCRIPTION = """Write one page of several runs: curves over one another, paired differences of their last evaluations
on the same problems, and the settings that differ."""
_OUT = Path("comparison.html")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; returns the exit code."""
    return exit_code(_compare, arguments)


def _compare(arguments: Sequence[str]) -> int:
    parser = CliParser(PROGRAM, "RUN RUN [RUN ...] [--out FILE]", _DESCRIPTION)
    parser.add_argument("runs", type=user_path, nargs="+", metavar="RUN", help="folders of runs")
    parser.add_argument("--out", type=user_path, default=_OUT, metavar="FILE", help=f"the page (default: {_OUT})")
    given = parser.parse_args(arguments)
    if len(given.runs) < 2:
        raise UserError(f"RUN = {str(given.runs[0])!r} is one run: name two or more, or use unisd-rl report for one")
    from unisd_rl.reporting.page import comparison  # drawing
    from unisd_rl.reporting.record import RunRecord
    from unisd_rl.storage.files import write_text_atomic

    page = comparison([RunRecord.at(run) for run in given.runs])
    try:
        write_text_atomic(given.out, page)
    except OSError as error:
        raise RunFailed(f"the comparison cannot be written to {given.out}: {error.strerror}; set --out") from error
    print(given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The command that makes the runs of a grid and compares them: `python -m unisd_rl.ablate GRID`.

GRID is a TOML file (`unisd_rl/ablation/grid.py`). Each finished run is one row of a Parquet file beside it, and the
command goes on from what is there, whatever ended it and wherever the rows were made. Exit codes: `cli.exit_code`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from unisd_rl.cli import CliParser, exit_code, print_lines, user_path
from unisd_rl.errors import UserError

PROGRAM = "python -m unisd_rl.ablate"
_DESCRIPTION = """Make every run of a grid, side by side, and compare them. Each finished run is one row of a Parquet
file; the command goes on from the rows that are there, and writes a report beside them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is missing, and write the report; returns the exit code."""
    return exit_code(_ablate, arguments)


def _parser() -> CliParser:
    parser = CliParser(PROGRAM, "GRID [--only ROW ...] [--jobs N] [--out FILE] [--runs DIR]", _DESCRIPTION)
    parser.add_argument("grid", type=user_path, metavar="GRID", help="TOML file, as grids/small.toml")
    parser.add_argument("--only", nargs="+", metavar="ROW", default=[], help="make these rows and no others")
    parser.add_argument(
        "--jobs", type=int, help="runs side by side (default: a run a core, where each is in one process)"
    )
    parser.add_argument("--out", type=user_path, metavar="FILE", help="the rows (default: GRID with .parquet)")
    parser.add_argument(
        "--runs", type=user_path, default=Path("runs"), metavar="DIR", help="where runs go (default: runs)"
    )
    parser.add_argument("--report", action="store_true", help="write the report of what is there, and make no run")
    parser.add_dry_run()
    return parser


def _ablate(arguments: Sequence[str]) -> int:
    given = _parser().parse_args(arguments)
    from unisd_rl.ablation.grid import load_grid
    from unisd_rl.ablation.job import GridJob

    if given.jobs is not None and given.jobs < 1:
        raise UserError(f"--jobs {given.jobs}: at least 1 run at a time")
    grid = load_grid(given.grid)
    for row in given.only:
        if row not in grid.rows:
            raise UserError(f"--only {row}: no row of {given.grid}; rows are: {', '.join(grid.rows)}")
    out = given.out or given.grid.with_suffix(".parquet")
    job = GridJob(given.grid, grid, out, given.runs / grid.name, tuple(given.only))
    if given.dry_run:
        print_lines(job.describe())
        return 0
    if not given.report:
        job.make(given.jobs)
    for path in job.report():
        print(path)
    return 1 if job.failures else 0


if __name__ == "__main__":
    sys.exit(main())

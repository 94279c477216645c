"""The command that rewrites the rollouts of a stopped run as Parquet, all of them: `python -m unisd_rl.compact RUN`.

RUN is the run's folder. A compacted run is resumed, replayed and read as before, and by whatever reads Parquet
(RUN/rollouts/segments/*.parquet, or where `rollout.ledger` put it). Exit codes: `cli.exit_code`.
"""

import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from unisd_rl.cli import CliParser, exit_code, user_path
from unisd_rl.errors import RunFailed, UserError
from unisd_rl.storage.files import FolderLock

PROGRAM = "python -m unisd_rl.compact"
_DESCRIPTION = """Rewrite the rollouts of a stopped run as Parquet, also the newest, which the run has not compacted
itself. It can be resumed and replayed as before."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Compact; returns the exit code."""
    return exit_code(_compact, arguments)


def _compact(arguments: Sequence[str]) -> int:
    parser = CliParser(PROGRAM, "RUN", _DESCRIPTION)
    parser.add_argument("run", type=user_path, metavar="RUN", help="the run's folder")
    run: Path = parser.parse_args(arguments).run
    if not (run / "rollouts").is_dir():
        raise UserError(f"RUN = {str(run)!r} holds no rollouts; give the folder of a run, DIR/NAME")
    from unisd_rl.transport.rollouts.ledger import Ledger  # heavy: pyarrow

    try:
        with closing(FolderLock(run)) as lock:
            if not lock.acquire():
                raise UserError(f"a run is writing to {run}; compact it when it has stopped")
            done = Ledger(run / "rollouts", fsync=True).compact()
    except OSError as error:
        raise RunFailed(f"{run} was not compacted, its rollouts are all there: {error}") from error
    mib = f"{done.bytes_before / 2**20:.1f} MiB to {done.bytes_after / 2**20:.1f} MiB"
    print(f"{run}: {done.rows} rollouts of {done.segments} segments compacted, {mib}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

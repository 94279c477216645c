"""What the commands share: how they end, and what they refuse before anything heavy is imported."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from unisd_rl.errors import RunFailed, UserError

STOPPED = 130


def exit_code(work: Callable[[], int]) -> int:
    """Do `work`: 0 done (what it returns), 1 a part of it failed, 2 the input is wrong, 130 stopped by Ctrl-C."""
    try:
        return work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return STOPPED


def refuse_relative_under_a_job(setting: str, folder: Path) -> None:
    """Raise `UserError` for a relative folder where what is written there would be lost."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not folder.is_absolute():
        raise UserError(
            f"{setting} = {str(folder)!r} is relative, but a Ray job's working directory is thrown away; "
            f"give an absolute folder that lasts, e.g. --{setting} /data/runs"
        )


def refuse_missing_folder(setting: str, path: str) -> None:
    """Raise `UserError` for a model that should be a folder and is not there."""
    if looks_local(path) and not Path(path).expanduser().is_dir():
        raise UserError(f"{setting} = {path!r} is not a folder; give a model folder or a hub name")


def looks_local(path: str) -> bool:
    """Whether a model path means a folder rather than `owner/name` on a hub."""
    return path.startswith((".", "/", "~")) or path.count("/") != 1

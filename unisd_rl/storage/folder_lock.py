"""One owner of a folder at a time, whatever becomes of it: the system lets go of a lock when its process ends."""

import fcntl
import time
from pathlib import Path

_POLL_S = 0.2


class FolderLock:
    """The lock `name` in `folder`; held until `close`, or until this process ends."""

    def __init__(self, folder: Path, name: str = "lock") -> None:
        self._file = (folder / name).open("a")

    def take(self, timeout_s: float = 0.0) -> bool:
        """Whether nobody else held it, or let go of it within `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline_s:
                    return False
                time.sleep(_POLL_S)
            else:
                return True

    def close(self) -> None:
        """Let go of it."""
        self._file.close()

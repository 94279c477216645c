"""Whether nobody has served for too long."""

import time
from collections.abc import Callable


class Absence:
    """Looked at now and then. The time counts from the first look that finds nobody: what happened before it, while
    nobody looked, is not known. `clock` returns seconds."""

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit_s, self._clock = limit_s, clock
        self._since_s: float | None = None

    def too_long(self, serving: int) -> bool:
        """Whether `serving` has been 0 at every look for more than `limit_s` seconds."""
        if serving:
            self._since_s = None
            return False
        now = self._clock()
        if self._since_s is None:
            self._since_s = now
        return now > self._since_s + self.limit_s

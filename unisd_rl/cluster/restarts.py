"""What broke and what was done about it: the words, and the rule that decides when to try again.

Every recovery is a `Failure` on the screen and in `events.jsonl`; waits and limit come from one `RestartPolicy`.
"""

import time
from collections import deque
from collections.abc import Callable

from unisd_rl.config.run import FaultsConfig
from unisd_rl.errors import RunFailed
from unisd_rl.types import Failure


class RestartPolicy:
    """When one part may be started again. `clock` returns seconds."""

    def __init__(self, part: str, config: FaultsConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._part, self._config, self._clock = part, config, clock
        self._failures: deque[float] = deque()
        self._furthest, self._without_progress = -1, 0

    def record_failure(self, what: str, progress: int | None = None) -> Failure:
        """Count a failure: the wait before the next start doubles with each within `faults.window_s`.

        `progress`: how many steps the part has taken at most. A part that takes long to fail leaves the window before
        it is full, so those without a further step are counted however old they are.

        Raises:
            RunFailed: that was one more than `faults.max_restarts`.
        """
        config, now = self._config, self._clock()
        if progress is not None:
            self._check_progress(what, progress)
        while self._failures and self._failures[0] <= now - config.window_s:
            self._failures.popleft()
        self._failures.append(now)
        count = len(self._failures)
        if count > config.max_restarts:
            raise RunFailed(
                f"{self._part} failed {count} times within {config.window_s:g} s (faults.max_restarts = "
                f"{config.max_restarts}); the last time: {what}"
            )
        wait_s = min(config.backoff_s * 2.0 ** min(count - 1, 64), config.backoff_max_s)
        return Failure(self._part, what, count, wait_s)

    def _check_progress(self, what: str, progress: int) -> None:
        self._without_progress = 1 if progress > self._furthest else self._without_progress + 1
        self._furthest = max(self._furthest, progress)
        if self._without_progress > self._config.max_restarts:
            raise RunFailed(
                f"{self._part} failed {self._without_progress} times and never got beyond step {self._furthest} "
                f"(faults.max_restarts = {self._config.max_restarts}); the last time: {what}"
            )

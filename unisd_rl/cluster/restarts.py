"""What broke and what was done about it: the words, and the rule that decides when to try again.

Every recovery is a `Fault` on the screen and in `events.jsonl`; its waits and its limit come from one `RestartBudget`.
"""

import time
from collections import deque
from collections.abc import Callable

from unisd_rl.config.run import FaultsConfig
from unisd_rl.errors import RunFailed
from unisd_rl.types import Fault


class RestartBudget:
    """When one part may be started again. `clock` returns seconds."""

    def __init__(self, part: str, config: FaultsConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._part, self._config, self._clock = part, config, clock
        self._failures: deque[float] = deque()
        self._reached, self._in_vain = -1, 0

    def failed(self, what: str, reached: int | None = None) -> Fault:
        """Count a failure: the wait before the next start doubles with each within `faults.window_s`.

        `reached`: how many steps the part has taken at most. A part that takes long to fail leaves the window before
        it is full, so those without a further step are counted however old they are.

        Raises:
            RunFailed: that was one more than `faults.max_restarts`.
        """
        config, now = self._config, self._clock()
        if reached is not None:
            self._fail_in_vain(what, reached)
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
        return Fault(self._part, what, count, wait_s)

    def _fail_in_vain(self, what: str, reached: int) -> None:
        self._in_vain = 1 if reached > self._reached else self._in_vain + 1
        self._reached = max(self._reached, reached)
        if self._in_vain > self._config.max_restarts:
            raise RunFailed(
                f"{self._part} failed {self._in_vain} times and never got beyond step {self._reached} "
                f"(faults.max_restarts = {self._config.max_restarts}); the last time: {what}"
            )

"""Calls to a process that may be away for a while: asked again, with back-off, until the patience ends."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from unisd_rl.config import FaultsConfig
from unisd_rl.errors import RunFailed

Result = TypeVar("Result")


async def patiently(
    call: Callable[[], Awaitable[Result]], again: tuple[type[Exception], ...], faults: FaultsConfig, what: str
) -> Result:
    """What `call` returns, once it does not raise one of `again`. A call must be safe to repeat.

    Raises:
        RunFailed: `faults.patience_s` seconds after the first failure; `what` says what was wanted, e.g. `the rollout
            queue to store rollouts`.
    """
    clock = asyncio.get_running_loop().time
    wait_s, deadline_s = faults.backoff_s, None
    while True:
        try:
            return await call()
        except again as error:
            deadline_s = deadline_s or clock() + faults.patience_s
            if clock() + wait_s > deadline_s:
                reason = (str(error) or type(error).__name__).splitlines()[-1]  # Ray puts a remote traceback before it
                raise RunFailed(
                    f"waited faults.patience_s = {faults.patience_s:g} s for {what}; the last time: {reason}"
                ) from error
        await asyncio.sleep(wait_s)
        wait_s = min(2.0 * wait_s, faults.backoff_max_s)

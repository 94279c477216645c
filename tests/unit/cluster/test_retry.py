"""Calls that outlive the death of whom they ask."""

import asyncio
from itertools import pairwise

import pytest

from unisd_rl.cluster.retry import Patience, retry
from unisd_rl.config.run import FaultsConfig
from unisd_rl.errors import RunFailed


class Away(Exception):
    pass


def asked(failures, **settings):
    """Ask for a number that comes after so many failures; the answer, and how often it was asked for."""
    times = []

    async def call():
        times.append(asyncio.get_running_loop().time())
        if len(times) <= failures:
            raise Away("a traceback\n  of many lines\nout for lunch")
        return 7

    faults = FaultsConfig(**{"backoff_s": 0.001, "backoff_max_s": 0.004, "patience_s": 5.0, **settings})
    return asyncio.run(retry(call, (Away,), faults, "the queue to answer")), times


def test_a_call_is_repeated_until_it_is_answered_with_growing_waits():
    answer, times = asked(4)
    assert (answer, len(times)) == (7, 5)
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert all(wait >= least for wait, least in zip(waits, (0.001, 0.002, 0.004, 0.004), strict=True))


def test_patience_ends_with_a_sentence():
    with pytest.raises(RunFailed, match=r"patience_s = 0.02 s for the queue to answer; the last time: out for lunch$"):
        asked(10**9, patience_s=0.02)


def test_patience_counts_from_the_first_failure_and_doubles_the_first_wait_given():
    now = [100.0]
    patience = Patience("the queue to come back", FaultsConfig(patience_s=10.0), 3.0, clock=lambda: now[0])
    assert patience.wait_s(Away()) == 3.0
    now[0] = 103.0
    assert patience.wait_s(Away()) == 6.0
    now[0] = 109.0
    with pytest.raises(RunFailed, match=r"waited faults.patience_s = 10 s for the queue to come back; .*: Away"):
        patience.wait_s(Away())


def test_another_failure_is_not_repeated():
    async def call():
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        asyncio.run(retry(call, (Away,), FaultsConfig(), "anything"))

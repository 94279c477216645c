"""A stuck engine is noticed, and nothing else is taken for one."""

import asyncio

import numpy as np
import pytest

from actors.engines.engine import EngineDied
from actors.engines.stall_guard import Progress, StallGuard
from tests.fakes.hand_moved import Clock
from tests.fakes.service_parts import HeldEngine
from unisd_rl.types import Sampling

STALL_S = 180.0


def looks(*seen):
    """`seen`: (seconds, prompts in flight, tokens so far, paused); what each look said."""
    clock = Clock()
    progress, said = Progress(STALL_S, clock), []
    for clock.now, in_flight, tokens, paused in seen:
        said.append(progress.stuck(in_flight, tokens, paused))
    return said


def test_no_token_for_the_whole_time_with_prompts_in_flight_is_stuck():
    assert looks((60, 2, 7, False), (120, 2, 7, False), (180, 2, 7, False), (239, 2, 7, False), (240, 2, 7, False)) == [
        False,
        False,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("look", [(0, 7, False), (2, 7, True), (2, 8, False)], ids=["idle", "a_pause", "a_token"])
def test_an_idle_engine_a_pause_and_a_token_start_the_time_anew(look):
    still = (2, 7, False)
    said = looks((60, *still), (140, *still), (220, *look), (310, *still), (399, *still))
    assert said == [False] * 5


@pytest.mark.parametrize("in_flight", [0, 2])
def test_one_pause_for_the_whole_time_is_stuck_whatever_is_in_flight(in_flight):
    paused = (in_flight, 7, True)
    assert looks((80, 2, 7, False), *((s, *paused) for s in (160, 240, 320, 339, 340))) == [False] * 5 + [True]


def test_time_in_which_the_process_itself_was_stopped_does_not_count():
    still = (2, 7, False)
    assert looks((60, *still), (1000, *still), (1080, *still), (1160, *still), (1180, *still)) == [False] * 4 + [True]


def test_every_call_of_a_stuck_engine_fails_and_says_why():
    async def scenario():
        engine = StallGuard(HeldEngine(), stall_s=0.05)
        await engine.start()
        tokens = np.frombuffer(b"q0", np.uint8).astype(np.int32)
        calls = [engine.generate(tokens, Sampling(1.0, 1.0, 4)) for _ in range(2)]
        try:
            return await asyncio.gather(*calls, return_exceptions=True)
        finally:
            await engine.close()

    failures = asyncio.run(asyncio.wait_for(scenario(), 10.0))
    assert [type(failure) for failure in failures] == [EngineDied, EngineDied]
    assert str(failures[0]) == "the engine made no token with 2 prompts in flight for faults.stall_s = 0.05 s"


class NeverResumed(HeldEngine):
    """Its process hangs in mid-update."""

    async def receive(self, manifest, buckets):
        self.paused = True
        await asyncio.Event().wait()


def test_an_update_of_an_engine_that_stays_paused_fails_and_says_why():
    async def scenario():
        engine = StallGuard(NeverResumed(), stall_s=0.05)
        await engine.start()
        try:
            await engine.receive(None, ())
        finally:
            await engine.close()

    with pytest.raises(EngineDied, match="stayed paused for new weights"):
        asyncio.run(asyncio.wait_for(scenario(), 10.0))

"""An actor that gives a GPU back, with a hand-made engine."""

import asyncio
from pathlib import Path

import pytest

from actors.engines.engine import EngineDied
from actors.rollout_actor import RolloutActor
from unisd_rl.errors import RunFailed


class Engine:
    """Says when it fell asleep, or that it cannot."""

    def __init__(self, failure=None):
        self.asleep, self._failure = False, failure

    async def sleep(self):
        if self._failure:
            raise self._failure
        self.asleep = True


def actor_with(engine):
    actor = object.__new__(RolloutActor)  # without Ray, a queue and weights
    actor._name, actor._log, actor._engine, actor._updating = "rollout-0", Path("log"), engine, asyncio.Lock()
    return actor


def test_the_engine_sleeps_after_the_update_or_the_evaluation_under_way():
    engine = Engine()
    actor = actor_with(engine)

    async def turns():
        async with actor._updating:
            freeing = asyncio.create_task(actor.free_gpu())
            for _ in range(5):
                await asyncio.sleep(0)
            assert not engine.asleep
        await freeing

    asyncio.run(turns())
    assert engine.asleep


def test_an_engine_that_cannot_is_a_failure_of_the_actor_in_words():
    actor = actor_with(Engine(EngineDied("vLLM did not fall asleep: no")))
    with pytest.raises(RunFailed, match=r"^rollout-0 stopped: vLLM did not fall asleep: no; its log is log$"):
        asyncio.run(actor.free_gpu())

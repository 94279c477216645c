"""What the engine does without vLLM: the rest is in tests/integration/test_engine.py."""

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from actors.engines.engine import EngineDied
from actors.engines.vllm_engine import VllmRolloutEngine
from unisd_rl.transport.weights.manifest import SnapshotManifest, UpdateRefused
from unisd_rl.types import PolicyVersion, Sampling

VERSION_1, VERSION_2 = PolicyVersion(0, 1), PolicyVersion(0, 2)
GREEDY = Sampling(temperature=0.0, top_p=1.0, max_tokens=1)


class Ended:
    """Stands for vLLM and for the loader of weights; remembers how it was ended."""

    timeout_s = closed = None

    def shutdown(self, timeout=None):
        self.timeout_s = timeout

    def close(self):
        self.closed = True


def test_vllms_process_gets_no_time_to_take_itself_apart_and_is_ended_once():
    """Left to itself it takes three to five seconds, at the end of every run and evaluation."""
    vllm, loader = Ended(), Ended()
    engine = VllmRolloutEngine(None, None, loader, on_gpu=False)
    engine._llm = vllm
    asyncio.run(engine.close())
    assert (vllm.timeout_s, loader.closed) == (0.0, True)
    vllm.timeout_s = None
    asyncio.run(engine.close())
    assert vllm.timeout_s is None


class Vllm(Ended):
    """Stands for vLLM and for the loader: notes in order what it is asked for, and lets others run at each."""

    def __init__(self):
        self.said, self.refuses, self.engine_core = [], None, self

    async def say(self, what):
        self.said.append(what)
        await asyncio.sleep(0)
        if what == self.refuses:
            raise RuntimeError("no")

    async def sleep(self, level, mode):
        await self.say(f"sleep {level} {mode}")

    async def wake_up(self, tags=None):
        await self.say(f"wake {' '.join(tags or ['all'])}")

    async def pause_scheduler_async(self, mode, clear_cache):
        await self.say("pause")

    async def resume_generation(self):
        await self.say("resume")

    async def update_weight_version(self, version):
        await self.say(f"name {version}")

    @asynccontextmanager
    async def prepare(self, host, manifest, buckets):
        if buckets == ("bad",):
            raise UpdateRefused("other bytes")
        yield lambda: self.say(f"load {manifest.version.number} {buckets[0]}")

    def taken(self):
        said, self.said = self.said, []
        return said


class Engine(VllmRolloutEngine):
    """Answers without vLLM's types."""

    async def _answer(self, tokens, sampling):
        await self.llm.say("answer")


def awake(sleeps=True, adapter=None):
    vllm = Vllm()
    engine = Engine(SimpleNamespace(adapter=adapter), None, vllm, on_gpu=sleeps, sleeps=sleeps)
    engine._llm = vllm
    return engine, vllm


async def receive(engine, version, bytes_="bytes"):
    return await engine.receive(SnapshotManifest(version, (), ()), (bytes_,))


async def answer(engine):
    await engine.generate(np.zeros(1, np.int32), GREEDY)


LOADED = ["pause", "load 1 bytes", "name 0:1", "resume"]


def woken_with(number):
    return [
        "wake weights", "pause", f"load {number} bytes", f"name 0:{number}", "wake kv_cache", "resume", "answer",
    ]  # fmt: skip


def test_asleep_it_takes_a_version_without_memory_and_loads_it_between_weights_and_keys_when_asked_to_answer():
    engine, vllm = awake()

    async def turns():
        await receive(engine, VERSION_1)
        assert vllm.taken() == LOADED
        await engine.sleep()
        report = await receive(engine, VERSION_2)
        assert (vllm.taken(), engine.version, report.pause_ms) == (["sleep 2 keep"], VERSION_2, 0.0)
        await answer(engine)
        assert vllm.taken() == woken_with(2)
        await answer(engine)
        assert vllm.taken() == ["answer"], "it stays awake"

    asyncio.run(turns())


def test_woken_without_a_new_version_it_loads_the_one_it_had():
    """A publication that was skipped, or a learner that was lost in its turn: level 2 discarded the weights."""
    engine, vllm = awake()

    async def turns():
        await receive(engine, VERSION_1)
        for _ in range(2):
            await engine.sleep()
            await engine.sleep()
            vllm.taken()
            await answer(engine)
            assert vllm.taken() == woken_with(1)
        assert (engine.version, engine.paused) == (VERSION_1, False)

    asyncio.run(turns())


def test_what_no_snapshot_would_bring_back_stays_in_the_memory_of_the_machine():
    """Weights that were pushed or are the model folder's, and the base under an adapter."""
    engine, vllm = awake()

    async def turns():
        await engine.sleep()
        await answer(engine)
        assert vllm.taken() == ["sleep 1 keep", "wake all", "answer"]

    async def turns_of_an_adapter():
        await receive(engine, VERSION_1)
        await engine.sleep()
        assert vllm.taken()[-1] == "sleep 1 keep"
        await answer(engine)
        assert vllm.taken() == woken_with(1)

    asyncio.run(turns())
    engine, vllm = awake(adapter="adapter")
    asyncio.run(turns_of_an_adapter())


def test_pushed_weights_find_the_memory_of_weights_and_end_the_sleep():
    engine, vllm = awake()

    async def turns():
        await engine.sleep()
        await engine.pause()
        waiting = asyncio.create_task(answer(engine))
        await vllm.say("push")
        await waiting  # vLLM keeps it until it is resumed
        await engine.resume(VERSION_1)
        await answer(engine)

    asyncio.run(turns())
    said = [what for what in vllm.said if what != "answer"]
    assert said == ["sleep 1 keep", "wake weights", "pause", "push", "name 0:1", "wake kv_cache", "resume"]


def test_prompts_that_arrive_together_wake_it_once_also_when_the_first_is_taken_back():
    engine, vllm = awake()

    async def turns():
        await receive(engine, VERSION_1)
        await engine.sleep()
        vllm.taken()
        prompts = [asyncio.create_task(answer(engine)) for _ in range(3)]
        while "pause" not in vllm.said:
            await asyncio.sleep(0)
        prompts[0].cancel()
        await asyncio.gather(*prompts, return_exceptions=True)

    asyncio.run(turns())
    assert vllm.said == [*woken_with(1), "answer"]


@pytest.mark.parametrize("refuses", ["sleep 2 keep", "wake weights", "load 1 bytes", "wake kv_cache"])
def test_an_engine_that_does_not_sleep_or_wake_is_ended_and_gives_its_memory_back(refuses):
    engine, vllm = awake()

    async def turns():
        await receive(engine, VERSION_1)
        vllm.refuses = refuses
        await engine.sleep()
        await answer(engine)

    with pytest.raises(EngineDied, match=r"^vLLM did not (fall asleep|wake up): "):
        asyncio.run(turns())
    assert vllm.timeout_s == 0.0
    with pytest.raises(EngineDied, match="vLLM is not running"):
        asyncio.run(answer(engine))


def test_bytes_that_are_refused_end_an_engine_that_wakes_with_them():
    engine, vllm = awake()

    async def turns():
        await receive(engine, VERSION_1)
        await engine.sleep()
        await receive(engine, VERSION_2, "bad")
        await answer(engine)

    with pytest.raises(EngineDied, match="other bytes"):
        asyncio.run(turns())
    assert vllm.timeout_s == 0.0


def test_where_no_gpu_is_shared_sleep_changes_nothing():
    engine, vllm = awake(sleeps=False)

    async def turns():
        await receive(engine, VERSION_1)
        await engine.sleep()
        await answer(engine)

    asyncio.run(turns())
    assert vllm.said == [*LOADED, "answer"]

"""What the engine does without vLLM: the rest is in tests/integration/test_engine.py."""

import asyncio

from actors.engines.vllm_engine import VllmRolloutEngine


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

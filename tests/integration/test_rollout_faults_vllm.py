"""vLLM's own process is killed, or stuck, or stuck in mid-update, under a rollout actor: it is replaced, and serves."""

import json
import shutil
import signal
from contextlib import closing

import psutil
import pytest
import ray

from actors.group import RolloutGroup
from actors.rollout_actor import ActorSpec
from tests.fakes.rollout_rig import BATCH, PLAN, WAIT_S, Parts, config, numbered
from unisd_rl.errors import RunFailed
from unisd_rl.transport.rollouts.driver_client import spawn_queue
from unisd_rl.transport.weights.store import spawn_store
from unisd_rl.types import Failure, PolicyVersion

pytestmark = [pytest.mark.slow, pytest.mark.engine]
START_S = 400.0


@pytest.fixture
def parts(tied_model_path, tmp_path):
    ray.init(address="local", include_dashboard=False, num_cpus=2, log_to_driver=False)
    engine = {"type": "vllm", "kv_cache_gib": 0.1}
    settings = config(engine=engine, faults={"stall_s": 10.0}, max_prompt_tokens=64, max_completion_tokens=192)
    made = Parts(settings, tied_model_path, tmp_path, START_S)
    yield made
    made.group.close()
    ray.shutdown()


def engine_core(parts):
    """vLLM's process below the one actor: the descendant that is neither the reaper nor a helper of multiprocessing."""
    (pid,) = parts.pids()
    children = psutil.Process(pid).children(recursive=True)
    cores = [child for child in children if "EngineCore" in " ".join(child.cmdline())]
    assert len(cores) == 1, [child.cmdline() for child in children]
    return cores[0]


def test_actors_whose_engine_is_killed_or_stuck_or_stuck_in_mid_update_are_replaced(parts):
    parts.serve(2 * BATCH)
    parts.until(lambda: parts.queue.report().leased, "prompts are in flight")
    engine_core(parts).send_signal(signal.SIGKILL)
    parts.until(lambda: parts.recoveries, "the actor with the dead engine was replaced", START_S)
    (killed,) = parts.faults
    assert "rollout-0 stopped: vLLM's process died" in killed.reason
    first = parts.take(0)
    parts.group.wait_for(PolicyVersion(0, 1), WAIT_S)

    stuck = engine_core(parts)
    parts.queue.admit(tuple(map(numbered, range(2 * BATCH, 3 * BATCH))))
    parts.until(lambda: parts.queue.report().leased, "prompts are in flight")
    stuck.suspend()
    parts.until(lambda: len(parts.recoveries) == 2, "the actor with the stuck engine was replaced", START_S)
    assert "rollout-0.1 stopped: the engine made no token with" in parts.faults[1].reason
    assert "in flight for faults.stall_s = 10 s" in parts.faults[1].reason
    parts.until(lambda: not stuck.is_running(), "the stuck process has gone")

    parts.until(lambda: parts.queue.report().committed == 3 * BATCH, "nothing is in flight")
    engine_core(parts).suspend()
    second = parts.take(1)
    parts.until(lambda: len(parts.recoveries) == 3, "the actor that hung in mid-update was replaced", START_S)
    assert "rollout-0.2 stopped: the engine stayed paused for new weights for faults.stall_s" in parts.faults[2].reason
    rest = [*second, *parts.take(2)]
    assert [rollout.number for rollout in (*first, *rest)] == list(range(3 * BATCH))
    assert rest[-1].actor == "rollout-0.2"


def test_an_engine_that_dies_at_its_start_gets_one_other_try_and_its_own_cause_is_told(tied_model_path, tmp_path):
    model, events = tmp_path / "model", []
    shutil.copytree(tied_model_path, model)
    shape = json.loads((model / "config.json").read_text())
    shape.pop("layer_types", None)
    (model / "config.json").write_text(json.dumps(shape | {"num_hidden_layers": shape["num_hidden_layers"] + 1}))
    settings = config(engine={"type": "vllm", "kv_cache_gib": 0.1})
    ray.init(address="local", include_dashboard=False, num_cpus=2, log_to_driver=False)
    try:
        spec = ActorSpec(settings, model, tmp_path, spawn_queue(tmp_path, settings), spawn_store())
        with closing(RolloutGroup(spec, PLAN, events.append)) as group:
            told = r"rollout-0\.1 stopped: vLLM does not start: ValueError: .*weights.*; its log is .*rollout-0\.1\.log"
            with pytest.raises(RunFailed, match=told):
                group.start(2 * START_S)
    finally:
        ray.shutdown()
    assert [(type(event), event.restart) for event in events] == [(Failure, 1)]
    assert "ValueError" in events[0].reason

"""The weight store as a real Ray actor: one that hangs is ended, and the driver is told that it is empty."""

import os
import signal
import time

import pytest
import ray

from unisd_rl.config.run import FaultsConfig
from unisd_rl.transport.weights.store import StoreMonitor, spawn_store

CALL_S = 60.0


@pytest.fixture
def store():
    ray.init(address="local", include_dashboard=False, num_cpus=1, log_to_driver=False)
    yield spawn_store()
    ray.shutdown()


def test_a_store_that_hangs_is_ended_and_found_empty(store):
    watch = StoreMonitor(store, FaultsConfig(ping_s=0.5, silent_s=2.0, patience_s=CALL_S))
    assert not watch.lost_contents()
    stopped = ray.get(store.handle.__ray_call__.remote(lambda _: os.getpid()), timeout=CALL_S)
    os.kill(stopped, signal.SIGSTOP)
    deadline_s = time.monotonic() + CALL_S
    while (fault := watch.lost_contents()) is None:
        assert time.monotonic() < deadline_s, f"waited {CALL_S:g} s for the store to be found empty"
        ray.wait([store.handle.instance_id.remote()], timeout=0.2)
    assert ray.get(store.handle.__ray_call__.remote(lambda _: os.getpid()), timeout=CALL_S) != stopped
    assert (fault.component, fault.restart) == ("store", 1)

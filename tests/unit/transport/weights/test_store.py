import asyncio
import threading
import time
import weakref

import numpy as np
import pytest
import ray
import torch
from ray.exceptions import ObjectLostError

from tests.fakes.snapshots import take_snapshot
from unisd_rl.transport.weights.manifest import CorruptSnapshotError
from unisd_rl.transport.weights.store import Snapshot, WeightStore, copy_snapshot
from unisd_rl.types import PolicyVersion


def snapshot(number, lineage=0):
    return take_snapshot(PolicyVersion(lineage, number), [("w", torch.full((4,), float(number)))], 64)


def store():
    return WeightStore(copy=copied)


def copied(lent):
    """What `copy_snapshot` does, without Ray."""
    lent.manifest.verify(lent.buckets)
    return Snapshot(lent.manifest, tuple(map(np.copy, lent.buckets)))


@pytest.fixture
def other_machine(monkeypatch):
    """Ray's object store of another machine, an array under each number; what is put here is bytes. Fails if two of its
    arrays are held here at a time."""
    there, here = [], []

    def get(number, timeout):
        assert not [array for array in here if array() is not None], "the bucket before is still held"
        array = np.copy(there[number])
        here.append(weakref.ref(array))
        return array

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "put", lambda array: array.tobytes())
    return there


def test_of_a_snapshot_on_another_machine_one_bucket_at_a_time_is_held_beside_the_copies(other_machine):
    tensors = [(name, torch.full((16,), float(place))) for place, name in enumerate("abc")]
    manifest, arrays = take_snapshot(PolicyVersion(0, 0), tensors, 64)
    other_machine.extend(arrays)
    assert copy_snapshot(Snapshot(manifest, (0, 1, 2))).buckets == tuple(array.tobytes() for array in arrays)
    other_machine[1] = other_machine[0]
    with pytest.raises(CorruptSnapshotError, match="bucket 1 of 0:0"):
        copy_snapshot(Snapshot(manifest, (0, 1, 2)))


def test_the_newest_snapshot_takes_the_place_of_the_one_before():
    async def scenario():
        held = store()
        assert await held.newest() is None
        for number in (0, 1):
            manifest, arrays = snapshot(number)
            await held.put(manifest, arrays)
        newest = await held.newest()
        return newest.version, newest.buckets[0].view(np.float32).tolist()

    assert asyncio.run(scenario()) == (PolicyVersion(0, 1), [1.0] * 4)


def test_a_snapshot_that_was_overtaken_does_not_take_the_place_of_the_newer_one():
    async def scenario():
        held = store()
        for number, lineage in ((1, 0), (0, 0), (0, 1), (2, 0)):
            manifest, arrays = snapshot(number, lineage)
            await held.put(manifest, arrays)
        return (await held.newest()).version

    assert asyncio.run(scenario()) == PolicyVersion(1, 0)


def test_bytes_that_are_not_those_of_the_manifest_leave_the_old_snapshot():
    async def scenario():
        held = store()
        manifest, arrays = snapshot(0)
        await held.put(manifest, arrays)
        with pytest.raises(CorruptSnapshotError):
            await held.put(snapshot(1)[0], arrays)
        return (await held.newest()).version

    assert asyncio.run(scenario()) == PolicyVersion(0, 0)


def test_who_asks_for_a_version_early_gets_it_when_it_comes():
    async def scenario():
        held = store()
        asked = asyncio.create_task(held.at_least(PolicyVersion(0, 1), 30.0))
        for number in (0, 1):
            assert not asked.done()
            manifest, arrays = snapshot(number)
            await held.put(manifest, arrays)
        return (await asked).version

    assert asyncio.run(scenario()) == PolicyVersion(0, 1)


def test_a_later_lineage_counts_as_newer_whatever_its_number():
    async def scenario():
        held = store()
        manifest, arrays = snapshot(3, lineage=1)
        await held.put(manifest, arrays)
        return (await held.at_least(PolicyVersion(0, 9), 1.0)).version

    assert asyncio.run(scenario()) == PolicyVersion(1, 3)


def test_waiting_ends_with_a_sentence_about_what_is_there():
    async def scenario():
        await store().at_least(PolicyVersion(0, 1), 0.01)

    with pytest.raises(TimeoutError, match=r"waited 0.01 s for weights of .*number=1.*holds None"):
        asyncio.run(scenario())


def test_actors_have_a_snapshot_before_the_store_has_copied_it_and_the_copy_takes_its_place():
    async def scenario():
        may_copy, lent = threading.Event(), snapshot(1)
        held = WeightStore(copy=lambda one: copied(one) if may_copy.wait(30.0) else None)
        holding = asyncio.create_task(held.put(*lent))
        early = await held.at_least(PolicyVersion(0, 1), 30.0)
        assert early.buckets[0] is lent[1][0]
        assert not holding.done()
        may_copy.set()
        await holding
        own = await held.newest()
        return own.buckets[0] is not lent[1][0], own.buckets[0].tobytes() == lent[1][0].tobytes()

    assert asyncio.run(scenario()) == (True, True)


def test_a_snapshot_whose_sender_died_before_it_was_copied_gives_way_to_the_one_before():
    def lost(one):
        if one.version.number == 1:
            raise ObjectLostError("", None, "")
        return copied(one)

    async def scenario():
        held = WeightStore(copy=lost)
        await held.put(*snapshot(0))
        with pytest.raises(ObjectLostError):
            await held.put(*snapshot(1))
        first = (await held.newest()).version
        await held.put(*snapshot(0, lineage=1))
        return first, (await held.newest()).version

    assert asyncio.run(scenario()) == (PolicyVersion(0, 0), PolicyVersion(1, 0))


def test_the_store_copies_a_moment_later_where_somebody_waited_and_at_once_where_nobody_did(monkeypatch):
    manifest, arrays = snapshot(1)
    monkeypatch.setattr("unisd_rl.transport.weights.store._SERVED_FIRST", manifest.nbytes / 0.2)
    times = {}

    def copying(one):
        times["copied"] = time.monotonic()
        return copied(one)

    async def seconds_between(waits):
        held = WeightStore(copy=copying)
        asked = [asyncio.create_task(held.at_least(PolicyVersion(0, 1), 30.0)) for _ in range(waits)]
        await asyncio.sleep(0)
        handed_out = time.monotonic()
        holding = asyncio.create_task(held.put(manifest, arrays))
        for one in asked:
            assert (await one).buckets[0] is arrays[0]
        await holding
        return times["copied"] - handed_out

    assert asyncio.run(seconds_between(waits=0)) < 0.2 <= asyncio.run(seconds_between(waits=2))

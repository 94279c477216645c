import asyncio

import numpy as np
import pytest
import torch

from unisd_rl.transport.weights.manifest import CorruptSnapshotError
from unisd_rl.transport.weights.snapshot import take_snapshot
from unisd_rl.transport.weights.store import Snapshot, WeightStore
from unisd_rl.types import PolicyVersion


def snapshot(number, lineage=0):
    return take_snapshot(PolicyVersion(lineage, number), [("w", torch.full((4,), float(number)))], 64)


def store():
    return WeightStore(copy=copied)


def copied(lent):
    """What `own_copy` does, without Ray."""
    lent.manifest.verify(lent.buckets)
    return Snapshot(lent.manifest, tuple(map(np.copy, lent.buckets)))


def test_the_newest_snapshot_takes_the_place_of_the_one_before():
    async def scenario():
        held = store()
        assert await held.newest() is None
        for number in (0, 1):
            manifest, arrays = snapshot(number)
            await held.hold(manifest, arrays)
        newest = await held.newest()
        return newest.version, newest.buckets[0].view(np.float32).tolist()

    assert asyncio.run(scenario()) == (PolicyVersion(0, 1), [1.0] * 4)


def test_a_snapshot_that_was_overtaken_does_not_take_the_place_of_the_newer_one():
    async def scenario():
        held = store()
        for number, lineage in ((1, 0), (0, 0), (0, 1), (2, 0)):
            manifest, arrays = snapshot(number, lineage)
            await held.hold(manifest, arrays)
        return (await held.newest()).version

    assert asyncio.run(scenario()) == PolicyVersion(1, 0)


def test_bytes_that_are_not_those_of_the_manifest_leave_the_old_snapshot():
    async def scenario():
        held = store()
        manifest, arrays = snapshot(0)
        await held.hold(manifest, arrays)
        with pytest.raises(CorruptSnapshotError):
            await held.hold(snapshot(1)[0], arrays)
        return (await held.newest()).version

    assert asyncio.run(scenario()) == PolicyVersion(0, 0)


def test_who_asks_for_a_version_early_gets_it_when_it_comes():
    async def scenario():
        held = store()
        asked = asyncio.create_task(held.at_least(PolicyVersion(0, 1), 30.0))
        for number in (0, 1):
            assert not asked.done()
            manifest, arrays = snapshot(number)
            await held.hold(manifest, arrays)
        return (await asked).version

    assert asyncio.run(scenario()) == PolicyVersion(0, 1)


def test_a_later_lineage_counts_as_newer_whatever_its_number():
    async def scenario():
        held = store()
        manifest, arrays = snapshot(3, lineage=1)
        await held.hold(manifest, arrays)
        return (await held.at_least(PolicyVersion(0, 9), 1.0)).version

    assert asyncio.run(scenario()) == PolicyVersion(1, 3)


def test_waiting_ends_with_a_sentence_about_what_is_there():
    async def scenario():
        await store().at_least(PolicyVersion(0, 1), 0.01)

    with pytest.raises(TimeoutError, match=r"waited 0.01 s for weights of .*number=1.*holds None"):
        asyncio.run(scenario())

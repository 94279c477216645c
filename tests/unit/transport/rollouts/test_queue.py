"""The queue's promises, one at a time. Waits are on real asyncio, lease times on a clock set by hand."""

import asyncio
import json
import math
from uuid import uuid4

import pytest

from tests.fakes.compaction import wait_for_compaction
from tests.fakes.failing_store import FAILING, store_fails_in
from tests.fakes.full_disk import files_of_at_most
from tests.fakes.rollout_rows import HandClock, numbered, rollout
from unisd_rl.config.rollout import RolloutConfig
from unisd_rl.transport.rollouts import compaction, segments
from unisd_rl.transport.rollouts.dispatch import LeaseRequest
from unisd_rl.transport.rollouts.ledger import Ledger
from unisd_rl.transport.rollouts.queue import NotAdmitted, RolloutQueue
from unisd_rl.transport.rollouts.schema import decode, encode
from unisd_rl.types import PolicyVersion, Source

V0, V1 = PolicyVersion(0, 0), PolicyVersion(0, 1)
LONG_S = 30.0  # a wait that the test itself ends


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def queue(tmp_path, clock):
    return make(tmp_path, clock)


def make(directory, clock, batch_size=2, max_attempts=2, **rollout):
    return RolloutQueue(directory, batch_size, RolloutConfig(lease_s=10.0, max_attempts=max_attempts, **rollout), clock)


async def admit(queue, count):
    await queue.admit([numbered(number) for number in range(count)])


async def lease(queue, actor="a", applied=V0, wanted=99, timeout_s=0.0):
    return [prompt.number for prompt in await queue.lease(actor, applied, wanted, timeout_s)]


async def commit(queue, *numbers, actor="a", versions=(0,)):
    await queue.commit(actor, encode([rollout(number, versions, actor) for number in numbers]))


def run(scenario):
    return asyncio.run(asyncio.wait_for(scenario, LONG_S))


def test_a_batch_comes_in_prompt_order_and_is_dealt_in_turn(queue):
    async def scenario():
        await admit(queue, 4)
        assert await lease(queue) == [0, 1, 2, 3]
        await commit(queue, 3, 1)
        await commit(queue, 0, 2, versions=(0, 0, 0))
        one, other = await queue.take(0, 1, 0.0), await queue.take(1, 3, 0.0)
        assert [[row.number for row in decode(shard)] for shard in one.shards] == [[0, 1]]
        assert [[row.number for row in decode(shard)] for shard in other.shards] == [[2], [3], []]
        assert (one.numbers, one.tokens, one.max_staleness) == ((0, 1), 3 + 1, 0)
        assert (other.numbers, other.tokens, other.max_staleness) == ((2, 3), 3 + 1, 1)
        report = await queue.report()
        assert (report.admitted, report.issued, report.committed, report.consumed) == (4, 4, 4, 4)
        assert (report.lost, report.duplicated, report.depth, report.max_staleness_seen) == (0, 0, 0, 1)
        assert (report.tokens, report.mean_tokens_issued, report.mean_tokens_consumed) == (8, 2.0, 2.0)
        assert report.length_difference == 0.0

    run(scenario())


def test_a_prompt_starts_only_on_weights_that_are_new_enough(queue):
    async def scenario():
        await admit(queue, 8)
        assert await lease(queue) == [0, 1, 2, 3]  # steps 0 and 1: one step ahead of version 0
        assert await lease(queue) == []
        assert await lease(queue, applied=V1) == [4, 5]

    run(scenario())


def test_lease_wakes_when_prompts_are_admitted_and_an_older_call_of_the_actor_ends(queue):
    async def scenario():
        abandoned = asyncio.create_task(lease(queue, timeout_s=LONG_S))
        await asyncio.sleep(0)
        later = asyncio.create_task(lease(queue, timeout_s=LONG_S))
        assert await abandoned == []
        await admit(queue, 1)
        assert await later == [0]

    run(scenario())


def test_take_wakes_on_the_last_commit_it_waits_for(queue):
    async def scenario():
        await admit(queue, 2)
        await lease(queue)
        taking = asyncio.create_task(queue.take(0, 1, LONG_S))
        await commit(queue, 1)
        await asyncio.sleep(0)
        assert not taking.done()
        await commit(queue, 0)
        assert (await taking).numbers == (0, 1)

    run(scenario())


def test_take_says_which_prompts_it_waited_for(queue):
    async def scenario():
        await admit(queue, 4)
        await lease(queue, wanted=2)
        await commit(queue, 1)
        with pytest.raises(TimeoutError, match=r"step 0 waited 0 s for 1 of 2 prompts: 0 \(leased to a\)"):
            await queue.take(0, 1, 0.0)
        with pytest.raises(TimeoutError, match=r"2 \(waiting for an actor that may start it\), 3 \(waiting"):
            await queue.take(1, 1, 0.0)

    run(scenario())


def test_an_expired_lease_is_issued_again_and_the_late_double_refused(queue, clock):
    async def scenario():
        await admit(queue, 2)
        assert await lease(queue, "a") == [0, 1]
        clock.now_s = 9.0
        await queue.renew("a", [0, 1])
        clock.now_s = 18.0
        assert await lease(queue, "b") == []
        clock.now_s = 19.0
        assert await lease(queue, "b") == [0, 1]
        await commit(queue, 0, actor="b")
        await commit(queue, 0, 1, actor="a")  # 0 is a late double; 1 is the first to arrive and ends b's lease
        await commit(queue, 1, actor="b")
        taken = await queue.take(0, 1, 0.0)
        assert [row.actor for row in decode(taken.shards[0])] == ["b", "a"]
        report = await queue.report()
        assert (report.refused, report.expired, report.leases, report.leased) == (2, 2, 4, 0)
        assert (report.consumed, report.duplicated) == (2, 0)

    run(scenario())


def test_a_dead_actors_prompts_are_issued_again(queue):
    async def scenario():
        await admit(queue, 3)
        assert await lease(queue, "a", wanted=2) == [0, 1]
        await queue.release("a")
        assert await lease(queue, "b") == [0, 1, 2]

    run(scenario())


def test_a_prompt_that_keeps_failing_is_quarantined_and_its_place_left_empty(queue, tmp_path, clock):
    async def scenario():
        await admit(queue, 2)
        assert await lease(queue, "a") == [0, 1]
        await commit(queue, 1)
        await queue.fail("a", 0, "engine refused it")
        assert await lease(queue, "b") == [0]
        await queue.fail("a", 0, "a late complaint about a lease it no longer holds")
        await queue.fail("b", 0, "engine refused it again")
        await commit(queue, 0, actor="b")  # too late: its place stays empty
        assert (await queue.take(0, 1, 0.0)).numbers == (1,)
        report = await queue.report()
        assert (report.quarantined, report.failures, report.refused, report.lost) == (1, 2, 1, 0)

    run(scenario())
    lines = (tmp_path / "quarantined.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"prompt": 0, "actor": "b", "reason": "engine refused it again"}]
    assert run(make(tmp_path, clock).report()).quarantined == 1


def test_a_batch_that_is_quarantined_whole_does_not_hang(tmp_path, clock):
    async def scenario():
        queue = make(tmp_path, clock, max_attempts=1)
        await admit(queue, 2)
        await lease(queue)
        taking = asyncio.create_task(queue.take(0, 2, LONG_S))
        await queue.fail("a", 0, "no")
        await queue.fail("a", 1, "no")
        taken = await taking
        assert (taken.numbers, taken.tokens, [decode(shard) for shard in taken.shards]) == ((), 0, [[], []])
        assert math.isnan((await queue.report()).mean_tokens_consumed)

    run(scenario())


def test_a_step_that_was_not_admitted_whole_is_refused_and_what_is_missing_named(queue):
    async def scenario():
        await admit(queue, 3)
        await lease(queue)
        await commit(queue, 0, 1, 2)
        with pytest.raises(NotAdmitted, match=r"step 1 needs prompts that were not admitted: 3 \(not admitted\)"):
            await queue.take(1, 1, LONG_S)

    run(scenario())


def test_a_row_that_would_be_too_stale_at_its_step_is_refused_and_its_prompt_waits_again(tmp_path, clock):
    async def scenario():
        queue = make(tmp_path, clock, batch_size=1, max_staleness=0)
        await admit(queue, 2)
        assert await lease(queue, "a", V1) == [0, 1]
        await commit(queue, 1, versions=(1, 0))
        assert await lease(queue, "b", V1) == [1]
        await commit(queue, 1, actor="b", versions=(1,))
        report = await queue.report()
        assert (report.too_stale, report.refused, report.committed) == (1, 0, 1)

    run(scenario())


def test_staleness_beyond_the_bound_is_an_error_at_consumption(tmp_path, clock):
    async def scenario():
        lax = make(tmp_path, clock, batch_size=1, max_staleness=1)  # stored what the strict one would have refused
        await commit(lax, 1, versions=(1, 0))
        queue = make(tmp_path, clock, batch_size=1, max_staleness=0)
        with pytest.raises(AssertionError, match="staleness 1 is above max_staleness 0"):
            await queue.take(1, 1, 0.0)
        assert (await queue.report()).consumed == 0

    run(scenario())


def test_rows_no_policy_sampled_start_when_policy_rows_may_not_and_keep_their_places(tmp_path, clock):
    async def scenario():
        queue = make(tmp_path, clock, batch_size=2, max_staleness=0)
        sources = [Source.POLICY, Source.GOLD, Source.GOLD, Source.GOLD, Source.POLICY, Source.GOLD]
        await queue.admit([numbered(number, source) for number, source in enumerate(sources)])
        assert await lease(queue) == [0, 1, 2, 3]  # policy prompt 4 is of step 2, and holds back what comes after it
        rows = [rollout(number, source=sources[number]) for number in (3, 1, 0, 2)]
        await queue.commit("a", encode(rows))
        taken = [await queue.take(step, 1, 0.0) for step in (0, 1)]
        assert [[row.source for row in decode(batch.shards[0])] for batch in taken] == [sources[:2], sources[2:4]]
        assert [batch.max_staleness for batch in taken] == [0, 0]
        assert await lease(queue, applied=PolicyVersion(0, 2)) == [4, 5]
        assert (await queue.report()).max_staleness_seen == 0

    run(scenario())


def test_prompts_of_the_initial_model_start_on_no_other_weights(tmp_path, clock):
    async def scenario():
        queue = make(tmp_path, clock, batch_size=1, max_staleness=0)
        await queue.admit([numbered(number, Source.BASE) for number in range(5)])
        assert await lease(queue, applied=V1) == []
        assert await lease(queue, applied=PolicyVersion(1, 0)) == []
        assert await lease(queue) == [0, 1, 2, 3, 4]
        await queue.commit("a", encode([rollout(number, source=Source.BASE) for number in range(5)]))
        assert (await queue.take(4, 1, 0.0)).max_staleness == 0

    run(scenario())


def test_consumed_lines_say_what_was_trained_on(queue, tmp_path):
    async def scenario():
        await admit(queue, 4)
        await queue.commit("a", encode([rollout(2, (0, 0, 1), lineage=4), rollout(3, source=Source.GOLD)]))
        await queue.take(1, 1, 0.0)
        assert (await queue.report()).straddling == 1

    run(scenario())
    lines = [json.loads(line) for line in (tmp_path / "consumed.jsonl").read_text().splitlines()]
    assert lines == [
        {"step": 1, "learner_lineage": 0, "prompt": 2, "id": "p2", "source": "policy", "lineage": 4}
        | {"oldest": 0, "newest": 1, "tokens": 3, "actor": "a"},
        {"step": 1, "learner_lineage": 0, "prompt": 3, "id": "p3", "source": "gold", "lineage": None}
        | {"oldest": None, "newest": None, "tokens": 1, "actor": "a"},
    ]


def test_losses_and_doubles_are_counted_from_what_happened(queue):
    async def scenario():
        await admit(queue, 4)
        await commit(queue, 2, 3)
        await queue.take(1, 1, 0.0)  # step 0 was passed over: its two prompts are lost
        report = await queue.report()
        assert (report.lost, report.duplicated, report.consumed) == (2, 0, 2)
        await lease(queue)
        await commit(queue, 0, 1)
        await queue.take(0, 1, 0.0)
        await queue.take(1, 1, 0.0)  # after another step: it is trained on twice
        report = await queue.report()
        assert (report.lost, report.duplicated, report.consumed) == (0, 2, 4)

    run(scenario())


def test_a_queue_opened_again_feeds_what_was_stored_and_leases_only_the_rest(queue, tmp_path, clock):
    async def before():
        await admit(queue, 6)
        await commit(queue, 0, 1, 3, versions=(0, 0))
        await queue.take(0, 1, 0.0)

    async def after():
        again = make(tmp_path, clock)
        report = await again.report()
        assert (report.committed, report.consumed, report.tokens, report.depth) == (3, 2, 6, 1)
        await admit(again, 4)
        assert await lease(again) == [2]
        await commit(again, 2)
        assert (await again.take(1, 1, 0.0)).numbers == (2, 3)

    run(before())
    run(after())


def test_admitting_again_changes_nothing(queue):
    async def scenario():
        await admit(queue, 2)
        assert await lease(queue, wanted=1) == [0]
        await admit(queue, 3)
        assert await lease(queue, "b") == [1, 2]
        await commit(queue, 0)
        await admit(queue, 3)
        assert await lease(queue, "b") == []
        assert (await queue.report()).admitted == 3

    run(scenario())


def test_a_retired_actor_gets_nothing_and_what_it_held_is_issued_again(queue):
    async def scenario():
        await admit(queue, 3)
        assert await lease(queue, "a", wanted=2) == [0, 1]
        await queue.retire("a")
        assert await lease(queue, "a") == []
        await queue.renew("a", [0, 1])
        assert await lease(queue, "b") == [0, 1, 2]
        await commit(queue, 0, actor="a")  # it had completed this one: whoever comes first counts
        assert (await queue.report()).committed == 1

    run(scenario())


def test_a_released_actor_waits_for_nothing(queue):
    async def scenario():
        waiting = asyncio.create_task(lease(queue, "a", timeout_s=LONG_S))
        await asyncio.sleep(0)
        await queue.release("a")
        assert await waiting == []

    run(scenario())


def test_what_an_actor_holds_is_its_own_again_when_the_queue_was_opened_again(queue, tmp_path, clock):
    async def scenario():
        await admit(queue, 4)
        assert await lease(queue, "a", wanted=3) == [0, 1, 2]
        again = make(tmp_path, clock)
        await again.renew("a", [0, 1])  # before the driver has admitted anything again
        await admit(again, 4)
        assert await lease(again, "b") == [2, 3]
        clock.now_s = 9.0
        await again.renew("a", [0])
        clock.now_s = 10.0
        assert await lease(again, "c") == [1, 2, 3]

    run(scenario())


def test_an_expired_lease_is_renewed_if_nobody_else_has_it_by_then(queue, clock):
    async def scenario():
        await admit(queue, 2)
        assert await lease(queue, "a") == [0, 1]
        clock.now_s = 11.0
        assert await lease(queue, "b", wanted=1) == [0]
        await queue.renew("a", [0, 1])
        assert await lease(queue, "b") == []  # 1 is a's again, 0 stays with b
        await queue.fail("a", 0, "not its own")
        assert (await queue.report()).failures == 0

    run(scenario())


def test_a_fall_back_feeds_the_lost_steps_again_and_leases_only_to_the_new_lineage(queue, tmp_path):
    async def scenario():
        await admit(queue, 8)
        await lease(queue)
        await commit(queue, 0, 1, 2, 3)
        for step in (0, 1):
            await queue.take(step, 1, 0.0)
        await queue.roll_back(1, 1)
        await queue.roll_back(1, 1)  # the answer to the first call may have been lost
        assert await queue.lineage() == 1
        report = await queue.report()
        assert (report.consumed, report.lineage, report.steps_lost, report.depth) == (2, 1, 1, 2)
        assert await lease(queue, applied=PolicyVersion(0, 9)) == []
        assert await lease(queue, applied=PolicyVersion(1, 1)) == [4, 5]
        assert (await queue.take(1, 1, 0.0)).numbers == (2, 3)  # from the ledger: nobody leased them again
        report = await queue.report()
        assert (report.consumed, report.duplicated, report.lost) == (4, 0, 0)
        with pytest.raises(ValueError, match="lineage 1 from step 0 does not follow lineage 1"):
            await queue.roll_back(1, 0)

    run(scenario())
    assert [json.loads(line) for line in (tmp_path / "lineages.jsonl").read_text().splitlines()] == [
        {"lineage": 1, "step": 1, "steps_lost": 1}
    ]
    lineages = [json.loads(line)["learner_lineage"] for line in (tmp_path / "consumed.jsonl").read_text().splitlines()]
    assert lineages == [0, 0, 0, 0, 1, 1]


def test_a_queue_opened_again_knows_its_lineage_and_what_survives(queue, tmp_path, clock):
    async def before():
        await admit(queue, 4)
        await commit(queue, 0, 1, 2, 3)
        for step in (0, 1):
            await queue.take(step, 1, 0.0)
        await queue.roll_back(2, 1)

    async def after():
        again = make(tmp_path, clock)
        report = await again.report()
        assert (await again.lineage(), report.consumed, report.steps_lost) == (2, 2, 1)

    run(before())
    run(after())
    older = tmp_path / "consumed.jsonl"  # of a run that called the learner's lineage `chain`
    older.write_text(older.read_text().replace('"learner_lineage"', '"chain"'))
    run(after())


def test_the_step_taken_last_may_be_asked_for_again_also_after_the_queue_was_opened_again(queue, tmp_path, clock):
    async def scenario():
        await admit(queue, 2)
        await commit(queue, 0, 1)
        first = await queue.take(0, 2, 0.0)
        assert await queue.take(0, 2, 0.0) == first
        again = make(tmp_path, clock)
        assert await again.take(0, 2, 0.0) == first
        assert ((await again.report()).consumed, (await again.report()).duplicated) == (2, 0)

    run(scenario())
    assert len((tmp_path / "consumed.jsonl").read_text().splitlines()) == 2


def test_in_memory_are_the_rows_of_the_step_taken_last_and_those_to_come(queue):
    async def scenario():
        await admit(queue, 8)
        await commit(queue, 0, 1)
        await commit(queue, 3, 2)
        await commit(queue, 4, 5, versions=(1,))
        held = []
        for step in range(3):
            await queue.take(step, 1, 0.0)
            held.append([entry.numbers for entry, _ in queue._ledger._recent.values()])
        await queue.roll_back(1, 0)
        assert (await queue.take(0, 1, 0.0)).numbers == (0, 1)
        return held

    assert run(scenario()) == [[(0, 1), (3, 2), (4, 5)], [(3, 2), (4, 5)], [(4, 5)]]


def test_units_are_leased_whole_and_as_soon_as_they_are_whole(tmp_path, clock):
    async def scenario():
        queue = make(tmp_path, clock, batch_size=4, lease_unit=2)
        await admit(queue, 3)
        assert await lease(queue, wanted=1) == [0, 1]
        assert await lease(queue, "b") == []
        await admit(queue, 5)
        assert await lease(queue, "b") == [2, 3]
        assert await lease(queue, "c") == []
        await admit(queue, 6)
        assert await lease(queue, "c") == [4, 5]

    run(scenario())


def test_a_unit_is_committed_whole_or_not_at_all(tmp_path, clock):
    async def scenario():
        queue = make(tmp_path, clock, batch_size=4, lease_unit=2)
        await admit(queue, 4)
        assert await lease(queue) == [0, 1, 2, 3]
        with pytest.raises(ValueError, match=r"a committed prompts \[0, 2, 3\] without \[1\]"):
            await commit(queue, 0, 2, 3)
        assert (await queue.report()).committed == 0
        await commit(queue, 0, 1)
        assert (await queue.report()).committed == 2

    run(scenario())


def test_a_unit_with_one_row_too_stale_is_refused_whole(tmp_path, clock):
    async def scenario():
        queue = make(tmp_path, clock, batch_size=2, lease_unit=2, max_staleness=0)
        await admit(queue, 4)
        assert await lease(queue, applied=V1) == [0, 1, 2, 3]
        await queue.commit("a", encode([rollout(2, (1,)), rollout(3, (1, 0))]))
        report = await queue.report()
        assert (report.committed, report.too_stale) == (0, 2)
        assert await lease(queue, "b", applied=V1) == [2, 3]

    run(scenario())


def test_a_quarantined_prompt_leaves_the_rest_of_its_unit_to_be_issued_again(tmp_path, clock):
    async def scenario():
        queue = make(tmp_path, clock, batch_size=2, lease_unit=2, max_attempts=1)
        await admit(queue, 2)
        assert await lease(queue) == [0, 1]
        await queue.fail("a", 0, "no")
        assert await lease(queue, "b") == [1]
        await commit(queue, 1, actor="b")
        assert (await queue.take(0, 1, 0.0)).numbers == (1,)

    run(scenario())


def test_a_group_is_leased_committed_and_dealt_to_one_rank_whole(tmp_path, clock):
    async def scenario():
        queue = make(tmp_path, clock, batch_size=12, answers_per_prompt=4)
        await admit(queue, 12)
        assert await lease(queue, wanted=1) == [0, 1, 2, 3]
        assert await lease(queue, "b", wanted=5) == [4, 5, 6, 7, 8, 9, 10, 11]
        with pytest.raises(ValueError, match=r"rollout\.answers_per_prompt"):
            await commit(queue, 0, 1, 2)
        await commit(queue, 3, 1, 0, 2)
        await commit(queue, *range(4, 12), actor="b")
        dealt = [[row.number for row in decode(shard)] for shard in (await queue.take(0, 2, 0.0)).shards]
        assert dealt == [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7]]

    run(scenario())


def test_a_number_that_is_given_up_leaves_its_place_in_the_group_empty_and_the_others_stay_together(tmp_path, clock):
    async def scenario():
        queue = make(tmp_path, clock, batch_size=8, answers_per_prompt=4, max_attempts=1)
        await admit(queue, 8)
        assert await lease(queue) == list(range(8))
        await queue.fail("a", 1, "no")
        assert await lease(queue, "b") == [0, 2, 3]
        await commit(queue, 0, 2, 3, actor="b")
        await commit(queue, 4, 5, 6, 7)
        batch = await queue.take(0, 2, 0.0)
        assert batch.numbers == (0, 2, 3, 4, 5, 6, 7)
        assert [[row.number for row in decode(shard)] for shard in batch.shards] == [[0, 2, 3], [4, 5, 6, 7]]

    run(scenario())


def test_a_group_that_was_given_up_whole_is_not_dealt(tmp_path, clock):
    async def scenario():
        queue = make(tmp_path, clock, batch_size=6, answers_per_prompt=2, max_attempts=1)
        await admit(queue, 6)
        for number in (0, 1):
            assert number in await lease(queue)
            await queue.fail("a", number, "no")
        await commit(queue, 2, 3, 4, 5)
        dealt = [[row.number for row in decode(shard)] for shard in (await queue.take(0, 2, 0.0)).shards]
        assert dealt == [[2, 3], [4, 5]]

    run(scenario())


def test_lengths_issued_and_consumed_differ_by_what_was_turned_away(queue, clock):
    async def scenario():
        await admit(queue, 2)
        assert await lease(queue, "a") == [0, 1]
        clock.now_s = 11.0
        assert await lease(queue, "b") == [0, 1]
        await commit(queue, 0, 1, actor="b", versions=(0,))  # 1 token each
        await commit(queue, 0, actor="a", versions=(0,) * 7)  # the longer answer came too late
        await queue.take(0, 1, 0.0)
        report = await queue.report()
        assert (report.mean_tokens_issued, report.mean_tokens_consumed) == ((1 + 1 + 7) / 3, 1.0)
        assert report.length_difference == 1.0 - 3.0

    run(scenario())


def test_a_full_disk_leaves_the_leases_with_the_actor_and_nothing_half_stored(queue):
    async def scenario():
        await admit(queue, 2)
        assert await lease(queue, "a") == [0, 1]
        with files_of_at_most(0), pytest.raises(OSError):
            await commit(queue, 0, 1)
        assert await lease(queue, "b") == []
        await commit(queue, 0, 1)
        with files_of_at_most(0), pytest.raises(OSError):
            await queue.take(0, 1, 0.0)
        assert (await queue.report()).consumed == 0
        assert (await queue.take(0, 1, 0.0)).numbers == (0, 1)

    run(scenario())


def test_an_error_of_an_object_stores_own_leaves_the_leases_with_the_actor_too(tmp_path, clock):
    async def scenario():
        ledger = Ledger(f"{FAILING}://{uuid4()}/rollouts", fsync=False)
        queue = RolloutQueue(tmp_path, 2, RolloutConfig(max_staleness=1, lease_s=10.0), clock, ledger)
        await admit(queue, 2)
        assert await lease(queue, "a") == [0, 1]
        with store_fails_in("segments"), pytest.raises(OSError, match=r"failed: ClientError: .*SlowDown"):
            await commit(queue, 0, 1)
        assert (len(ledger), await lease(queue, "b")) == (0, [])
        await commit(queue, 0, 1)
        assert (await queue.take(0, 1, 0.0)).numbers == (0, 1)

    run(scenario())


def test_a_commit_wakes_nobody_whom_it_does_not_free(queue):
    async def scenario():
        await admit(queue, 6)
        assert await lease(queue, "a", wanted=4) == [0, 1, 2, 3]
        waiting = [asyncio.create_task(lease(queue, name, timeout_s=LONG_S)) for name in "bcd"]
        await asyncio.sleep(0)
        await commit(queue, 0, 1, 2, 3)
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        assert await lease(queue, "c", applied=V1) == [4, 5]  # ends c's earlier call, and frees neither b nor d
        assert await waiting[1] == []
        assert not waiting[0].done()
        for name in "bd":
            await queue.release(name)

    run(scenario())


def test_a_step_whose_rollouts_were_thrown_away_is_not_gone_back_to(queue, tmp_path, clock, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1)
    monkeypatch.setattr(compaction, "_COMPACTED_BYTES", 1)

    async def scenario():
        await admit(queue, 6)
        for step in range(3):
            await lease(queue, applied=PolicyVersion(0, step))
            await commit(queue, 2 * step, 2 * step + 1, versions=(step,))
            wait_for_compaction(queue._ledger)
            await queue.take(step, 1, 0.0)
        await queue.discard(2)
        wait_for_compaction(queue._ledger)
        for one in (queue, make(tmp_path, clock)):
            with pytest.raises(ValueError, match=r"step 1 cannot be gone back to.*prompts below 4 were thrown away"):
                await one.roll_back(1, 1)
            report = await one.report()
            assert (report.lineage, report.committed, report.consumed, report.lost) == (0, 6, 6, 0)
        await queue.roll_back(1, 2)
        assert (await queue.take(2, 1, 0.0)).numbers == (4, 5)

    run(scenario())


def test_what_is_known_of_prompts_that_are_done_is_a_range_and_no_list(queue):
    async def scenario():
        for step in range(200):
            await queue.admit([numbered(number) for number in (2 * step, 2 * step + 1)])
            await lease(queue, applied=PolicyVersion(0, step))
            await queue.fail("a", 2 * step, "said so")
            await lease(queue, applied=PolicyVersion(0, step))
            await commit(queue, 2 * step + 1, 2 * step, versions=(step,))
            await queue.take(step, 1, 0.0)
        done = ((0, 400),)
        assert queue._consumption.numbers.ranges == queue._ledger.numbers.ranges == done
        assert queue._dispatcher.admitted.ranges == queue._dispatcher.issued.ranges == done
        assert (await queue.report()).failures == 200
        assert not queue._quarantine._failures
        assert not queue._book._units

    run(scenario())


async def commit_and_ask(queue, number, wanted, actor="a", applied=V0):
    answer = await queue.commit(actor, encode([rollout(number, actor=actor)]), LeaseRequest(applied, wanted))
    return [prompt.number for prompt in answer.prompts]


def test_a_commit_leases_what_may_start_at_once_after_those_that_wait(queue):
    async def scenario():
        await admit(queue, 2)
        assert await lease(queue, wanted=1) == [0]
        assert await lease(queue, "b", wanted=1) == [1]
        waiting = asyncio.create_task(lease(queue, "c", wanted=1, timeout_s=LONG_S))
        await asyncio.sleep(0)
        await queue.admit([numbered(number) for number in range(2, 6)])
        assert await commit_and_ask(queue, 0, 99) == [3]  # 2 went to the call that waited, 4 is a step too far ahead
        assert await waiting == [2]
        assert await commit_and_ask(queue, 3, 99) == []
        assert await commit_and_ask(queue, 1, 1, "b", V1) == [4]
        assert (await queue.report()).leased == 2
        await queue.retire("c")
        assert await commit_and_ask(queue, 2, 99, "c", V1) == []

    run(scenario())


def test_a_commit_that_asks_for_nothing_is_given_nothing_and_says_whether_the_learner_waits(queue):
    async def scenario():
        await admit(queue, 4)
        await lease(queue, wanted=2)
        rows = encode([rollout(0)])
        answer = await queue.commit("a", rows)
        assert (answer.prompts, answer.learner_waits) == ([], False)
        taking = asyncio.create_task(queue.take(0, 1, LONG_S))
        await asyncio.sleep(0)
        answer = await queue.commit("a", rows)
        assert (answer.prompts, answer.learner_waits) == ([], True)
        await commit(queue, 1)
        assert (await taking).numbers == (0, 1)

    run(scenario())

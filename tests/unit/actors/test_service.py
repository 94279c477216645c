import asyncio
from contextlib import asynccontextmanager

import pytest

from actors.commit_window import CommitWindow
from actors.engines.engine import EngineDied
from actors.service import RolloutService
from tests.fakes.service_parts import (
    END_OF_TURN,
    NO_VERSION,
    VERSION_0,
    ByteTokenizer,
    HeldEngine,
    ListQueue,
    numbered,
    until,
)
from unisd_rl.config.rollout import RolloutConfig
from unisd_rl.types import PolicyVersion, Source


@asynccontextmanager
async def serving(queue, engine, tokenizer=None, **settings):
    service = RolloutService("a", RolloutConfig(**settings), engine, tokenizer or ByteTokenizer(), queue)
    task = asyncio.create_task(service.serve())
    try:
        yield service
    finally:
        task.cancel()
        await asyncio.wait([task])


class LongWindow(CommitWindow):
    """No lease call is made while a unit ends: the prompts come with commits, however slow the machine."""

    seconds = 3600.0


def test_no_more_prompts_are_in_flight_than_places():
    async def scenario():
        queue, engine = ListQueue(10), HeldEngine()
        async with serving(queue, engine, concurrency=3):
            await until(lambda: len(engine.started) == 3)
            engine.release(2)
            await until(lambda: len(engine.started) == 5)
            await until(lambda: len(queue.rollouts) == 2)
            return engine.started

    assert len(asyncio.run(scenario())) == 5


def test_what_is_committed_is_what_was_leased_tokenised_and_generated():
    async def scenario():
        queue, engine = ListQueue(2), HeldEngine(PolicyVersion(0, 5))
        async with serving(queue, engine, temperature=0.5, top_p=0.9, top_k=4, max_completion_tokens=7) as service:
            engine.release(2)
            await until(lambda: service.committed == 2)
            return queue.rollouts, engine.samplings

    rollouts, samplings = asyncio.run(scenario())
    first = next(rollout for rollout in rollouts if rollout.number == 0)
    assert (first.id, first.source, first.actor, first.seed) == ("id-0", Source.POLICY, "a", 100)
    assert bytes(first.prompt_tokens.tolist()) == b"q0"
    assert [bytes(view.tokens.tolist()) for view in first.views] == [b"view of 0"]
    assert first.completion_tokens.tolist() == first.prompt_tokens.tolist()
    assert first.versions.tolist() == [5, 5]
    assert first.started_s <= first.finished_s
    assert [(s.temperature, s.top_p, s.top_k, s.max_tokens, s.seed) for s in samplings] == [
        (0.5, 0.9, 4, 7, 100),
        (0.5, 0.9, 4, 7, 101),
    ]
    assert sum(len(rollout.completion_tokens) for rollout in rollouts) == 4


def test_a_gold_completion_is_its_text_and_the_end_of_the_turn_and_no_engine_is_asked():
    async def scenario():
        queue, engine = ListQueue(3, source=Source.GOLD), HeldEngine(PolicyVersion(0, 5))
        async with serving(queue, engine, concurrency=1) as service:
            await until(lambda: service.committed == 3)
            return sorted(queue.rollouts, key=lambda rollout: rollout.number), engine.started

    rollouts, started = asyncio.run(scenario())
    assert started == []
    assert [bytes(rollout.completion_tokens[:-1].tolist()) for rollout in rollouts] == [
        b"gold of 0",
        b"gold of 1",
        b"gold of 2",
    ]
    for rollout in rollouts:
        assert rollout.completion_tokens[-1] == END_OF_TURN
        assert (rollout.source, rollout.finish_reason) == (Source.GOLD, "stop")
        assert (rollout.logprobs, rollout.lineages, rollout.versions) == (None, None, None)
        assert [bytes(view.tokens.tolist()) for view in rollout.views] == [f"view of {rollout.number}".encode()]


def test_what_the_initial_model_samples_carries_neither_log_probs_nor_versions():
    async def scenario():
        queue, engine = ListQueue(1, source=Source.BASE), HeldEngine(VERSION_0)
        async with serving(queue, engine) as service:
            engine.release(1)
            await until(lambda: service.committed == 1)
            return queue.rollouts[0]

    rollout = asyncio.run(scenario())
    assert bytes(rollout.completion_tokens.tolist()) == b"q0"
    assert (rollout.source, rollout.logprobs, rollout.lineages, rollout.versions) == (Source.BASE, None, None, None)


def test_tokens_of_a_trained_model_are_never_taken_for_the_initial_ones():
    async def scenario():
        queue, engine = ListQueue(1, source=Source.BASE), HeldEngine(PolicyVersion(0, 1))
        engine.release(1)
        service = RolloutService("a", RolloutConfig(), engine, ByteTokenizer(), queue)
        with pytest.raises(ExceptionGroup) as failures:
            await asyncio.wait_for(service.serve(), 10.0)
        assert failures.group_contains(AssertionError, match="prompt 0 has tokens of a trained model")
        return queue.rollouts

    assert asyncio.run(scenario()) == []


def test_rollouts_that_finish_together_are_committed_together():
    async def scenario():
        queue, engine = ListQueue(8), HeldEngine()
        async with serving(queue, engine):
            await until(lambda: len(engine.started) == 8)
            engine.release(8)
            await until(lambda: len(queue.rollouts) == 8)
            return queue.commits

    assert len(asyncio.run(scenario())) == 1


def test_a_prompt_the_engine_refuses_is_given_back_and_the_others_go_on():
    async def scenario():
        queue, engine = ListQueue(3), HeldEngine(poison="q1")
        async with serving(queue, engine) as service:
            engine.release(2)
            await until(lambda: len(queue.rollouts) == 2 and queue.failed)
            return queue.failed, sorted(rollout.number for rollout in queue.rollouts), service.committed

    assert asyncio.run(scenario()) == ([(1, "q1 is poison")], [0, 2], 2)


def test_nothing_is_leased_before_the_first_weights():
    async def scenario():
        queue, engine = ListQueue(1), HeldEngine(NO_VERSION)
        async with serving(queue, engine) as service:
            for _ in range(20):
                await asyncio.sleep(0)
            assert queue.leases == []
            engine.version = PolicyVersion(0, 0)
            service.weights_changed()
            await until(lambda: engine.started)
        return queue.leases[0]

    assert asyncio.run(scenario())[0] == PolicyVersion(0, 0)


def test_new_weights_let_further_prompts_start_at_once():
    async def scenario():
        queue, engine = ListQueue(4, batch=2), HeldEngine()
        async with serving(queue, engine) as service:
            await until(lambda: len(engine.started) == 2 and len(queue.leases) == 2)
            engine.version = PolicyVersion(0, 1)
            service.weights_changed()
            await until(lambda: len(engine.started) == 4)
        return engine.started

    assert asyncio.run(scenario()) == ["q0", "q1", "q2", "q3"]


def test_while_paused_nothing_starts_and_what_runs_is_completed():
    async def scenario():
        queue, engine = ListQueue(5), HeldEngine()
        async with serving(queue, engine, concurrency=2) as service:
            await until(lambda: len(engine.started) == 2)
            service.pause()
            engine.release(2)
            await until(lambda: len(queue.rollouts) == 2)
            for _ in range(50):
                await asyncio.sleep(0)
            assert len(engine.started) == 2
            service.resume()
            await until(lambda: len(engine.started) == 4)

    asyncio.run(scenario())


def test_a_dead_engine_ends_the_service_and_gives_the_leases_back():
    async def scenario():
        queue, engine = ListQueue(3), HeldEngine()
        engine.failure = EngineDied("gone")
        service = RolloutService("a", RolloutConfig(), engine, ByteTokenizer(), queue)
        with pytest.raises(ExceptionGroup) as failures:
            await asyncio.wait_for(service.serve(), 10.0)
        assert failures.group_contains(EngineDied, match="gone")
        return queue.released

    assert asyncio.run(scenario()) == 1


def test_stopping_aborts_what_is_in_flight_and_gives_the_leases_back():
    async def scenario():
        queue, engine = ListQueue(3), HeldEngine()
        async with serving(queue, engine):
            await until(lambda: len(engine.started) == 3)
        return engine.cancelled, queue.released

    assert asyncio.run(scenario()) == (3, 1)


def test_leases_are_renewed_while_answers_take_long():
    async def scenario():
        queue, engine = ListQueue(1), HeldEngine()
        async with serving(queue, engine, lease_s=0.03):
            await until(lambda: queue.renewed >= 3)

    asyncio.run(scenario())


def test_heartbeats_carry_what_is_in_flight_and_what_is_not_committed_yet():
    async def scenario():
        queue, engine = ListQueue(3), HeldEngine()
        queue.storing.clear()
        async with serving(queue, engine, lease_s=0.03):
            await until(lambda: len(engine.started) == 3)
            engine.release(1)
            await until(lambda: queue.commits)  # asked for, and not answered: on no storage yet
            seen = queue.renewed
            await until(lambda: queue.renewed > seen + 1)
            before = sorted(queue.held)
            queue.storing.set()
            await until(lambda: len(queue.held) == 2)
            return before, sorted(queue.held)

    assert asyncio.run(scenario()) == ([0, 1, 2], [1, 2])


def test_weights_of_a_higher_lineage_find_nothing_in_flight_and_nothing_of_the_old_one_starts():
    async def scenario():
        queue, engine = ListQueue(6), HeldEngine()
        async with serving(queue, engine, concurrency=3) as service:
            await until(lambda: len(engine.started) == 3)
            await service.abandon(1)
            assert (engine.cancelled, queue.released, service.held) == (3, 1, ())
            asked = len(queue.leases)
            for _ in range(50):
                await asyncio.sleep(0)
            assert len(engine.started) == 3
            engine.version = PolicyVersion(1, 0)
            service.weights_changed()
            await until(lambda: len(engine.started) == 6)
            assert all(version.lineage == 1 for version, _ in queue.leases[asked + 1 :])
            engine.release(3)
            await until(lambda: len(queue.rollouts) == 3)
            return queue.rollouts

    assert {rollout.number for rollout in asyncio.run(scenario())} == {3, 4, 5}


def test_prompts_leased_for_an_older_lineage_that_arrive_late_are_not_started():
    async def scenario():
        queue, engine = ListQueue(0), HeldEngine()
        async with serving(queue, engine) as service:
            await until(lambda: queue.leases)
            await service.abandon(1)
            queue.answer_now([numbered(0)])
            engine.version = PolicyVersion(1, 0)
            service.weights_changed()
            await until(lambda: queue.leases[-1][0].lineage == 1)
            return engine.started

    assert asyncio.run(scenario()) == []


def test_a_drained_service_leases_nothing_more_commits_what_it_holds_and_ends():
    async def scenario():
        queue, engine = ListQueue(10), HeldEngine()
        service = RolloutService("a", RolloutConfig(concurrency=3), engine, ByteTokenizer(), queue)
        ending = asyncio.create_task(service.serve())
        await until(lambda: len(engine.started) == 3)
        service.drain()
        engine.release(10)
        await asyncio.wait_for(ending, 10.0)
        return len(engine.started), sorted(rollout.number for rollout in queue.rollouts), queue.released

    assert asyncio.run(scenario()) == (3, [0, 1, 2], 1)


def test_a_drained_service_that_waits_for_prompts_ends_its_lease_call_and_does_what_that_was_given():
    async def scenario():
        queue, engine = ListQueue(0), HeldEngine()
        service = RolloutService("a", RolloutConfig(), engine, ByteTokenizer(), queue)
        ending = asyncio.create_task(service.serve())
        await until(lambda: queue.leases)
        queue.gives_on_end = [numbered(0)]
        service.drain()
        engine.release(1)
        await asyncio.wait_for(ending, 10.0)
        return [wanted for _, wanted in queue.leases], [rollout.number for rollout in queue.rollouts]

    assert asyncio.run(scenario()) == ([64, 0], [0])


def test_a_prompt_that_is_leased_to_its_holder_again_is_not_generated_twice():
    async def scenario():
        queue, engine = ListQueue(2), HeldEngine()
        async with serving(queue, engine, concurrency=3) as service:
            await until(lambda: len(engine.started) == 2)
            queue.waiting = [numbered(0)]  # its lease has run out
            service.weights_changed()
            await until(lambda: not queue.waiting)
            engine.release(2)
            await until(lambda: len(queue.rollouts) == 2)
            return engine.started

    assert asyncio.run(scenario()) == ["q0", "q1"]


def test_a_pause_ends_the_call_that_waits_for_prompts():
    async def scenario():
        queue, engine = ListQueue(0), HeldEngine()
        async with serving(queue, engine) as service:
            await until(lambda: queue.leases)
            service.pause()
            await until(lambda: len(queue.leases) == 2)
            service.resume()
            await until(lambda: len(queue.leases) == 3)
            return [wanted for _, wanted in queue.leases]

    assert asyncio.run(scenario()) == [64, 0, 64]


def test_a_service_sleeps_when_all_it_held_is_on_storage_and_leases_again_when_woken():
    async def scenario():
        queue, engine = ListQueue(5), HeldEngine()
        queue.storing.clear()
        async with serving(queue, engine, concurrency=2) as service:
            await until(lambda: len(engine.started) == 2)
            sleeping = asyncio.create_task(service.sleep())
            engine.release(2)
            await until(lambda: queue.commits)
            for _ in range(50):
                await asyncio.sleep(0)
            assert not sleeping.done(), "generated, and not stored yet"
            queue.storing.set()
            await asyncio.wait_for(sleeping, 10.0)
            assert (service.held, sorted(row.number for row in queue.rollouts)) == ((), [0, 1])
            asked = len(queue.leases)
            for _ in range(50):
                await asyncio.sleep(0)
            assert len(queue.leases) == asked
            service.resume()
            await until(lambda: len(engine.started) == 4)

    asyncio.run(scenario())


def test_what_a_lease_call_is_given_while_it_is_being_ended_is_done_before_the_service_sleeps():
    """Given back, or kept, it would be a lease that runs out in the learner's turn."""

    async def scenario():
        queue, engine = ListQueue(0), HeldEngine()
        async with serving(queue, engine) as service:
            await until(lambda: queue.leases)
            queue.gives_on_end = [numbered(0)]
            sleeping = asyncio.create_task(service.sleep())
            await until(lambda: engine.started)
            assert not sleeping.done()
            engine.release(1)
            await asyncio.wait_for(sleeping, 10.0)
            return [wanted for _, wanted in queue.leases], [rollout.number for rollout in queue.rollouts], service.held

    assert asyncio.run(scenario()) == ([64, 0], [0], ())


def test_a_service_without_weights_falls_asleep_at_once():
    async def scenario():
        async with serving(ListQueue(1), HeldEngine(NO_VERSION)) as service:
            await asyncio.sleep(0)
            await asyncio.wait_for(service.sleep(), 10.0)

    asyncio.run(scenario())


def test_the_time_asleep_is_no_time_of_service():
    async def scenario():
        queue, engine = ListQueue(2), HeldEngine()
        async with serving(queue, engine, concurrency=1) as service:
            await until(lambda: engine.started)
            engine.release(1)
            await service.sleep()
            served_s = service.usage.served_s
            await asyncio.sleep(0.02)
            assert service.usage.served_s == served_s
            service.resume()
            await until(lambda: service.usage.served_s > served_s)

    asyncio.run(scenario())


def test_the_prompts_of_a_unit_are_committed_together_or_not_at_all():
    async def scenario():
        queue, engine = ListQueue(6), HeldEngine(poison="q4")
        async with serving(queue, engine, lease_unit=3):
            await until(lambda: len(engine.started) == 6 and queue.failed)
            engine.release(2)
            await until(lambda: engine.finished == 2)
            for _ in range(50):
                await asyncio.sleep(0)
            early = list(queue.commits)
            engine.release(1)
            await until(lambda: queue.commits)
            return early, queue.commits, queue.failed, engine.cancelled

    assert asyncio.run(scenario()) == ([], [[0, 1, 2]], [(4, "q4 is poison")], 2)


def test_the_answers_to_a_prompt_have_its_tokens_read_once_and_a_seed_each():
    async def scenario():
        queue, engine, tokenizer = ListQueue(8, answers=4), HeldEngine(), ByteTokenizer()
        async with serving(queue, engine, tokenizer, answers_per_prompt=4):
            engine.release(8)
            await until(lambda: len(queue.rollouts) == 8)
            return queue.rollouts, engine, tokenizer.encoded

    rollouts, engine, encoded = asyncio.run(scenario())
    assert sorted(encoded) == ["q0", "q1", "view of 0", "view of 1"]
    assert engine.started == ["q0"] * 4 + ["q1"] * 4
    assert [(sampling.number, sampling.seed) for sampling in engine.samplings] == [(n, 100 + n) for n in range(8)]
    by_number = {rollout.number: rollout for rollout in rollouts}
    for number in range(8):
        row, group = by_number[number], number // 4
        assert (row.id, row.seed) == (f"id-{group}", 100 + number)
        assert bytes(row.prompt_tokens.tolist()) == f"q{group}".encode()
        assert [bytes(view.tokens.tolist()) for view in row.views] == [f"view of {group}".encode()]


def test_a_group_is_committed_whole_when_its_last_answer_is_there():
    async def scenario():
        queue, engine = ListQueue(8, answers=4), HeldEngine()
        async with serving(queue, engine, answers_per_prompt=4):
            await until(lambda: len(engine.started) == 8)
            engine.release(3)
            await until(lambda: engine.finished == 3)
            for _ in range(50):
                await asyncio.sleep(0)
            early = list(queue.commits)
            engine.release(1)
            await until(lambda: queue.commits)
            return early, queue.commits

    assert asyncio.run(scenario()) == ([], [[0, 1, 2, 3]])


def test_each_answer_that_ends_frees_a_place_and_groups_are_leased_whole():
    """Six places: a second group goes over them, and a third comes while an answer of the first is still missing."""

    async def scenario():
        queue, engine = ListQueue(16, answers=4), HeldEngine()
        async with serving(queue, engine, concurrency=6, answers_per_prompt=4) as service:
            await until(lambda: len(engine.started) == 8)
            assert (service.usage.free, len(service.held)) == (0, 8)
            engine.release(2)
            await until(lambda: engine.finished == 2)
            for _ in range(50):
                await asyncio.sleep(0)
            assert len(engine.started) == 8
            engine.release(1)
            await until(lambda: len(engine.started) == 12)
            return [wanted for _, wanted in queue.leases], queue.commits

    assert asyncio.run(scenario()) == ([6, 1], [])


def test_of_a_group_with_an_answer_that_fails_that_number_is_reported_and_the_others_are_stopped():
    async def scenario():
        queue, engine = ListQueue(8, answers=4), HeldEngine(poisoned=6)
        async with serving(queue, engine, answers_per_prompt=4) as service:
            await until(lambda: queue.failed)
            engine.release(4)
            await until(lambda: service.committed == 4)
            return queue.commits, queue.failed, engine.cancelled, service.usage.free, service.held

    assert asyncio.run(scenario()) == ([[0, 1, 2, 3]], [(6, "q1 is poison")], 3, 64, ())


def test_what_is_left_of_a_group_is_generated_alone():
    """One of its answers was given up: its place stays empty."""

    async def scenario():
        queue, engine = ListQueue(0), HeldEngine()
        queue.waiting = [numbered(number, answers=4) for number in (4, 6, 7)]
        async with serving(queue, engine, answers_per_prompt=4):
            engine.release(3)
            await until(lambda: queue.commits)
            return queue.commits, engine.started

    assert asyncio.run(scenario()) == ([[4, 6, 7]], ["q1"] * 3)


def test_a_lease_that_two_calls_were_given_is_generated_once():
    """The queue was started again in between, and had forgotten the first."""

    async def scenario():
        queue, engine = ListQueue(0, answers=4), HeldEngine()
        async with serving(queue, engine, answers_per_prompt=4) as service:
            await until(lambda: queue.leases)
            group = [numbered(number, answers=4) for number in range(4)]
            queue.waiting, queue.gives_on_end = list(group), group
            service.weights_changed()
            engine.release(8)
            await until(lambda: queue.commits)
            return queue.commits, engine.started

    assert asyncio.run(scenario()) == ([[0, 1, 2, 3]], ["q0"] * 4)


def test_a_commit_asks_for_the_next_prompts_so_that_the_queue_is_called_once_for_each():
    """One place: the first prompt is leased, and each other one comes with the commit of the one before."""

    async def scenario():
        queue, engine = ListQueue(5), HeldEngine()
        async with serving(queue, engine, concurrency=1) as service:
            service._window = LongWindow()
            engine.release(5)
            await until(lambda: service.committed == 5)
            return queue.commits, queue.leases[:1], queue.requests, engine.started

    commits, leases, requests, started = asyncio.run(scenario())
    assert commits == [[0], [1], [2], [3], [4]]
    assert (leases, requests) == ([(VERSION_0, 1)], [(VERSION_0, 1)] * 5)
    assert started == ["q0", "q1", "q2", "q3", "q4"]


def test_after_a_commit_that_was_given_nothing_a_lease_call_waits_for_more():
    async def scenario():
        queue, engine = ListQueue(1), HeldEngine()
        async with serving(queue, engine, concurrency=1):
            engine.release(1)
            await until(lambda: len(queue.leases) == 2)
            return queue.leases, queue.waiting

    assert asyncio.run(scenario()) == ([(VERSION_0, 1)] * 2, [])


def test_a_commit_asks_for_nothing_while_a_lease_call_waits_or_the_actor_is_to_lease_nothing():
    async def requests(prompts, places, before=lambda service: None, window=CommitWindow):
        queue, engine = ListQueue(prompts), HeldEngine()
        async with serving(queue, engine, concurrency=places) as service:
            service._window = window()
            await until(lambda: len(engine.started) == 1)
            before(service)
            await until(lambda: len(queue.leases) == 2 or places == 1)
            engine.release(1)
            await until(lambda: service.committed == 1)
            return queue.requests

    assert asyncio.run(requests(1, 2)) == []  # a call waits for the other place's prompt
    assert asyncio.run(requests(2, 1, RolloutService.pause)) == []
    assert asyncio.run(requests(2, 1, RolloutService.drain)) == []
    assert asyncio.run(requests(2, 1, window=LongWindow)) == [(VERSION_0, 1)]


def test_prompts_that_a_commit_of_an_older_lineage_was_given_are_not_started():
    async def scenario():
        queue, engine = ListQueue(2), HeldEngine()
        queue.storing.clear()
        async with serving(queue, engine, concurrency=1) as service:
            service._window = LongWindow()
            engine.release(1)
            await until(lambda: queue.commits)
            await service.abandon(1)
            queue.storing.set()
            await until(lambda: service.committed == 1)
            return queue.requests, engine.started, service.held

    assert asyncio.run(scenario()) == ([(VERSION_0, 1)], ["q0"], ())


def test_whether_the_learner_waits_comes_with_the_answer_to_a_commit():
    async def scenario():
        queue, engine = ListQueue(1), HeldEngine()
        queue.learner_waits = False
        async with serving(queue, engine) as service:
            engine.release(1)
            await until(lambda: service.committed == 1)
            return service._window.learner_waits

    assert asyncio.run(scenario()) is False

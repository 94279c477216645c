"""Processes that are objects of this one: called, waited for and failing as Ray's are."""

import asyncio
import os
import threading
import time

import numpy as np
import pytest

from unisd_rl.cluster.in_process import in_process
from unisd_rl.cluster.processes import CallLate, CallRaised, ProcessDied, ProcessOptions
from unisd_rl.cluster.runtime import runtime
from unisd_rl.cluster.waiting import fetch, pause, wait
from unisd_rl.errors import RunFailed, UserError

WAIT_S = 20.0


class Actor:
    """An asynchronous object: what is called of it begins in order."""

    def __init__(self, name="actor"):
        self.name, self.seen, self.opened = name, [], asyncio.Event()

    async def wait_for_door(self, what):
        self.seen.append(f"{what} waits")
        await self.opened.wait()
        self.seen.append(f"{what} goes")
        return what

    def open(self):
        self.seen.append("open")
        self.opened.set()

    async def asks(self, other):
        return f"{self.name} heard {await other.answers.remote()}"

    async def answers(self):
        return self.name

    async def pair(self):
        return "first", "second"

    async def fails(self, error):
        raise error


class Rank:
    """An object without coroutines: what is called of it is over at once."""

    def __init__(self):
        self.threads = []

    def step(self, shard):
        self.threads.append(threading.get_ident())
        return sum(shard)

    def fails(self):
        return 1 / 0


@pytest.fixture
def local():
    with in_process():
        yield runtime()


def spawned(local, kind, *arguments, **options):
    return local.spawn(kind, *arguments, options=ProcessOptions({}, **options))


def test_calls_of_an_asynchronous_object_begin_in_order_and_go_on_while_the_driver_waits(local):
    actor = spawned(local, Actor)
    first, opened, second = (
        actor.wait_for_door.remote("first"), actor.open.remote(), actor.wait_for_door.remote("second"),
    )  # fmt: skip
    assert actor._target.seen == [], "a call never runs before somebody waits"
    assert wait([second], WAIT_S) == [second]
    assert actor._target.seen[:4] == ["first waits", "open", "second waits", "second goes"]
    assert [fetch(call) for call in (first, opened, second)] == ["first", None, "second"]


def test_a_call_of_an_object_without_coroutines_is_over_when_it_returns_in_the_callers_thread(local):
    rank = spawned(local, Rank)
    call = rank.step.remote([1, 2])
    assert rank._target.threads == [threading.get_ident()]
    assert fetch(call) == 3


def test_objects_call_each_other_and_an_answer_may_be_an_argument(local):
    one, other, rank = spawned(local, Actor, "one"), spawned(local, Actor, "other"), spawned(local, Rank)
    assert fetch(one.asks.remote(other)) == "one heard other"
    assert fetch(rank.step.remote(local.put(np.arange(4)))) == 6


def test_members_of_a_tuple_are_calls_of_their_own(local):
    first, second = spawned(local, Actor).pair.options(num_returns=2).remote()
    assert (fetch(second), fetch(first)) == ("second", "first")


def test_what_was_put_is_a_copy_that_nobody_changes(local):
    array = np.arange(3)
    reference = local.put(array)
    array[0] = 7
    assert fetch(reference).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="read-only"):
        fetch(reference)[0] = 1


def test_our_own_errors_come_as_they_were_and_others_by_their_name_with_the_traceback_in_the_log(local, tmp_path):
    log = tmp_path / "logs" / "actor.log"
    actor = spawned(local, Actor, log=log)
    refused, failed = UserError("set run.dir"), RunFailed("a check fired")
    for error in (refused, failed):
        with pytest.raises(type(error)) as caught:
            fetch(actor.fails.remote(error))
        assert caught.value is error
    with pytest.raises(CallRaised, match=r"^KeyError: 'shard'$") as raised:
        fetch(actor.fails.remote(KeyError("shard")))
    assert isinstance(raised.value.cause, KeyError)
    written = log.read_text()
    assert "in fails" in written
    assert [line for line in written.splitlines() if line.startswith(("KeyError", "unisd_rl"))] == [
        "unisd_rl.errors.RunFailed: a check fired",
        "KeyError: 'shard'",
    ]
    with pytest.raises(CallRaised, match="ZeroDivisionError"):
        fetch(spawned(local, Rank).fails.remote())


def test_a_call_that_does_not_end_in_time_is_late_and_one_that_was_ended_has_no_answer(local):
    actor = spawned(local, Actor)
    call = actor.wait_for_door.remote("it")
    with pytest.raises(CallLate, match=r"^no answer within 0\.01 s$"):
        fetch(call, 0.01)
    local.kill(actor, restart=True)
    actor.open.remote()
    assert fetch(call) == "it", "an object that works is not started again"
    actor._target.opened.clear()
    call = actor.wait_for_door.remote("another")
    local.kill(actor)
    with pytest.raises(ProcessDied):
        fetch(call, WAIT_S)


def test_a_pause_lets_calls_go_on_and_a_wait_for_several_ends_with_the_last_or_its_limit(local):
    actor = spawned(local, Actor)
    calls = [actor.wait_for_door.remote("one"), actor.answers.remote()]
    pause(0.01)
    assert actor._target.seen == ["one waits"]
    assert local.wait(calls, 0.01, count=2) == [calls[1]]
    actor.open.remote()
    began_s = time.monotonic()
    assert local.wait(calls, WAIT_S, count=2) == calls
    assert time.monotonic() - began_s < WAIT_S


def test_who_stops_awaiting_does_not_stop_the_call(local):
    async def impatient(call):
        try:
            await asyncio.wait_for(call, 0.01)
        except TimeoutError:
            return "left"

    class Caller:
        async def asks(self, other):
            return await impatient(other.wait_for_door.remote("it"))

    actor = spawned(local, Actor)
    assert fetch(spawned(local, Caller).asks.remote(actor)) == "left"
    actor.open.remote()
    pause(0.01)
    assert actor._target.seen == ["it waits", "open", "it goes"]


def test_a_process_gets_its_environment_and_there_is_one_node_with_room_at_once(local, monkeypatch):
    monkeypatch.delenv("SOME_SETTING", raising=False)
    monkeypatch.setenv("SOME_SETTING", "before")
    spawned(local, Rank, environment={"SOME_SETTING": "1"})
    assert os.environ["SOME_SETTING"] == "1"
    assert local.nodes() == 1
    assert local.place([{"CPU": 1.0}]).wait(0.0)


def test_outside_the_block_ray_carries_the_processes_and_what_was_under_way_is_cancelled():
    with in_process():
        inside = runtime()
        call = spawned(inside, Actor).wait_for_door.remote("it")
        pause(0.0)
    assert runtime() is not inside
    assert call.future.cancelled()

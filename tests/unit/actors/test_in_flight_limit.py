import asyncio

import pytest

from actors.in_flight_limit import InFlightLimit


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_the_busy_time_is_the_time_with_a_prompt_in_flight():
    clock = Clock()
    limit = InFlightLimit(2, clock)
    clock.now = 5.0
    assert limit.served_s == 0.0, "it grows from pulse to pulse, and starts with the timing"
    limit.start_timing()
    for now, act in ((6.0, limit.acquire), (7.0, limit.acquire), (8.0, limit.release), (9.0, limit.release)):
        clock.now = now
        act()
    clock.now = 11.0
    assert (limit.busy_s, limit.served_s) == pytest.approx((3.0, 6.0))
    limit.acquire()
    clock.now = 17.0
    assert (limit.busy_s, limit.served_s) == pytest.approx((9.0, 12.0))


def test_the_time_between_stop_and_resume_counts_as_neither_served_nor_busy():
    clock = Clock()
    limit = InFlightLimit(1, clock)
    limit.start_timing()
    limit.acquire()
    clock.now = 3.0
    limit.release()
    clock.now = 4.0
    limit.stop_timing()
    clock.now = 104.0
    assert (limit.busy_s, limit.served_s) == (3.0, 4.0)
    limit.resume_timing()
    limit.resume_timing()
    limit.acquire()
    clock.now = 110.0
    assert (limit.busy_s, limit.served_s) == (9.0, 10.0)


def test_free_places_never_fall_below_none():
    limit = InFlightLimit(1)
    limit.acquire()
    limit.acquire()
    assert limit.free == 0


def test_waiting_ends_when_a_place_is_given_up():
    async def scenario():
        limit = InFlightLimit(1)
        limit.acquire()
        waiting = asyncio.create_task(limit.wait_until_free())
        await asyncio.sleep(0)
        assert not waiting.done()
        limit.release()
        await asyncio.wait_for(waiting, 5.0)
        return limit.free

    assert asyncio.run(scenario()) == 1


def test_several_start_and_end_at_once_and_none_is_no_end():
    clock = Clock()
    limit = InFlightLimit(4, clock)
    limit.start_timing()
    limit.acquire(4)
    clock.now = 2.0
    limit.release(3)
    assert limit.free == 3
    clock.now = 5.0
    limit.release()
    clock.now = 9.0
    limit.release(0)
    assert (limit.free, limit.busy_s) == (4, pytest.approx(5.0))

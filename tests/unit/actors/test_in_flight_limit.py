import asyncio

import pytest

from actors.service import Places


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_the_busy_fraction_is_the_share_of_time_with_a_prompt_in_flight():
    clock = Clock()
    places = Places(2, clock)
    clock.now = 5.0
    places.begin()
    for now, act in ((6.0, places.take), (7.0, places.take), (8.0, places.give_up), (9.0, places.give_up)):
        clock.now = now
        act()
    clock.now = 11.0
    assert places.busy_fraction == pytest.approx(3.0 / 6.0)
    places.take()
    clock.now = 17.0
    assert places.busy_fraction == pytest.approx(9.0 / 12.0)


def test_free_places_never_fall_below_none():
    places = Places(1)
    places.take()
    places.take()
    assert places.free == 0


def test_waiting_ends_when_a_place_is_given_up():
    async def scenario():
        places = Places(1)
        places.take()
        waiting = asyncio.create_task(places.wait_for_one())
        await asyncio.sleep(0)
        assert not waiting.done()
        places.give_up()
        await asyncio.wait_for(waiting, 5.0)
        return places.free

    assert asyncio.run(scenario()) == 1

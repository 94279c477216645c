"""What a run costs those who look at it: seconds are counted once, and what is hidden comes back."""

import pytest

from benchmarks.observed_run import Meter, replaced


class Writer:
    def __init__(self, clock):
        self.clock = clock

    def finish(self):
        self.clock[0] += 2.0
        self.close()

    def close(self):
        self.clock[0] += 1.0


def test_a_metered_function_that_another_one_calls_is_counted_once(monkeypatch):
    clock, meter = [0.0], Meter()
    for name in ("process_time", "perf_counter"):
        monkeypatch.setattr(f"benchmarks.observed_run.time.{name}", lambda: clock[0])
    with replaced(Writer, "finish", meter.around(Writer.finish)), replaced(Writer, "close", meter.around(Writer.close)):
        Writer(clock).finish()
        Writer(clock).close()
    assert (meter.cpu_s, meter.wall_s) == (4.0, 4.0)
    Writer(clock).close()
    assert meter.wall_s == 4.0, "outside the block nothing is metered"


def test_what_is_replaced_comes_back_after_an_error():
    before = Writer.close

    def fail():
        with replaced(Writer, "close", None):
            raise OSError

    with pytest.raises(OSError):
        fail()
    assert Writer.close is before

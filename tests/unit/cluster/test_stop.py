"""What SIGINT and SIGTERM do: at once, after a step, and the second and third time."""

import os
import signal
import threading
import time

import pytest

from tests.fakes.hand_moved import Clock
from unisd_rl.cli import exit_code
from unisd_rl.cluster import ray_cluster
from unisd_rl.cluster.stop import STOP, STOPPED, StopSignals

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Signalled:
    """A handler that is called by hand, a second after the last time."""

    def __init__(self):
        self.clock, self.ends, self.notices = Clock(), [], []
        self.stop = StopSignals(self.clock, lambda: self.ends.append("hard"))

    def send(self, number=signal.SIGTERM, after_s=1.0):
        self.clock.now += after_s
        self.stop(number, None)

    def notice(self):
        self.notices.append("finishing")


@pytest.fixture
def signalled():
    return Signalled()


@pytest.fixture
def handlers():
    """The handlers of both signals before the test, and again after it."""
    before = [signal.getsignal(each) for each in SIGNALS]
    yield before
    for each, handler in zip(SIGNALS, before, strict=True):
        signal.signal(each, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_outside_a_step_the_first_signal_stops_at_once(signalled, number):
    with pytest.raises(KeyboardInterrupt):
        signalled.send(number)
    assert (signalled.stop.requested, signalled.stop.reason) == (True, number.name)


def test_in_a_step_the_first_signal_is_noted_and_said_and_the_second_stops_at_once(signalled):
    with signalled.stop.deferred(signalled.notice):
        signalled.send()
        assert signalled.stop.requested
        assert signalled.notices == ["finishing"]
        with pytest.raises(KeyboardInterrupt):
            signalled.send(signal.SIGINT)
    assert signalled.notices == ["finishing"]
    assert signalled.ends == []


def test_a_signal_while_everything_is_closed_ends_the_process_hard(signalled):
    with pytest.raises(KeyboardInterrupt):
        signalled.send()
    with pytest.raises(KeyboardInterrupt):
        signalled.send()
    assert signalled.ends == ["hard"]


def test_the_same_request_sent_to_the_process_and_to_its_group_is_one(signalled):
    with signalled.stop.deferred():
        signalled.send()
        signalled.send(after_s=0.1)
        with pytest.raises(KeyboardInterrupt):
            signalled.send(after_s=0.6)


def test_an_evaluation_between_steps_ends_at_once_and_the_step_after_it_does_not(signalled):
    done = []
    with signalled.stop.deferred(signalled.notice):
        with signalled.stop.ended_at_once():
            signalled.send()
            done.append("the rest of the evaluation")
        done.append("checkpoint")
        with pytest.raises(KeyboardInterrupt):
            signalled.send()
    assert done == ["checkpoint"]
    assert signalled.ends == []


def test_a_stop_that_was_put_off_is_made_up_for(signalled):
    with signalled.stop.deferred():
        signalled.send()
    with pytest.raises(KeyboardInterrupt):
        signalled.stop.check()


def test_a_library_does_not_replace_the_handler_while_it_is_kept():
    with STOP.handling():
        with STOP.kept():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is STOP
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_command_that_is_stopped_says_one_line_and_the_next_one_begins_anew(number, capsys, handlers):
    done = []

    def command(arguments):
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
        for _ in range(1000):
            time.sleep(0.01)
        done.append("the command")
        return 0

    assert exit_code(command, []) == STOPPED
    assert (capsys.readouterr().err, done) == ("stopped\n", [])
    assert exit_code(lambda arguments: 0 if not STOP.requested else 1, []) == 0  # of an earlier one


def test_a_command_that_is_not_stopped_leaves_the_handlers_as_they_were(handlers):
    assert exit_code(lambda arguments: 0, []) == 0
    assert [signal.getsignal(each) for each in SIGNALS] == handlers


def test_a_signal_while_ray_shuts_down_leaves_what_has_finished_as_it_is(monkeypatch, handlers):
    ended = []

    def shutdown():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)  # the handler is called
        ended.append(STOP.requested)

    monkeypatch.setattr(ray_cluster.ray, "shutdown", shutdown)
    assert exit_code(lambda arguments: ray_cluster._shut_down() or 0, []) == 0
    assert ended == [True]

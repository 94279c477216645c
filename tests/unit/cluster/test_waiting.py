"""A wait looks after the others, and ends with what they raise; what became of a call is said in one sentence.

Ray's errors are its own, made by hand; tests/integration has them from real processes.
"""

import time

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, RayTaskError

from unisd_rl.cluster import ray_runtime
from unisd_rl.cluster.processes import CallLate, CallRaised, ProcessDied, Unreachable
from unisd_rl.cluster.waiting import fetch, pause, wait, wait_until
from unisd_rl.errors import PermanentFailure, RunFailed, UserError


def test_a_pause_looks_after_the_others_and_lasts_as_long_as_asked():
    looks, began_s = [], time.monotonic()
    pause(0.05, lambda: looks.append(time.monotonic()))
    assert looks
    assert time.monotonic() - began_s >= 0.05


def test_what_the_callback_raises_ends_the_wait():
    def learner_died():
        raise ConnectionError("the learner died")

    with pytest.raises(ConnectionError, match="the learner died"):
        pause(0.01, learner_died)


def test_a_wait_for_no_calls_ends_with_none():
    assert wait((), 0.0) == []


def raised(error, kind="ValueError"):
    """What `ray.get` raises for a method that raised `error`."""
    trace = f"ray::RankProcess.step() (pid=7)\n  File x\n    raise\nunisd_rl.errors.{kind}: {error}"
    return RayTaskError("step", trace, error)


def fetched(monkeypatch, error):
    def get(call, timeout):
        raise error.as_instanceof_cause() if isinstance(error, RayTaskError) else error

    monkeypatch.setattr(ray_runtime.ray, "get", get)
    with pytest.raises(Exception) as caught:
        fetch(None, 6.0)
    return type(caught.value), str(caught.value)


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (raised(RunFailed("a check fired")), RunFailed, "a check fired"),
        (raised(UserError("set run.dir")), UserError, "set run.dir"),
        (raised(ValueError("no number")), CallRaised, "ValueError: no number"),
        (raised(TimeoutError("step 3 waited")), CallRaised, "TimeoutError: step 3 waited"),
        (GetTimeoutError("Get timed out"), CallLate, "no answer within 6 s"),
        (
            ActorDiedError(),
            ProcessDied,
            "its process died: The actor died unexpectedly before finishing this task",
        ),
        (
            ActorUnavailableError("no route", None),
            Unreachable,
            "its process cannot be reached: The actor None is unavailable: no route. The task may or may not have been "
            "executed on the actor",
        ),
    ],
    ids=["expected", "wrong input", "other", "its own wait", "late", "died", "unreachable"],
)
def test_what_became_of_a_call_is_one_sentence_of_its_kind(error, kind, sentence, monkeypatch):
    assert fetched(monkeypatch, error) == (kind, sentence)


@pytest.mark.parametrize("kind", [UserError, RunFailed, PermanentFailure])
def test_what_a_constructor_refused_is_raised_as_it_was_although_ray_keeps_its_text_alone(kind, monkeypatch):
    refusal = "the tokenizer of m has no chat template:\nname one"
    died = ActorDiedError(raised(kind(refusal), kind.__name__))
    assert fetched(monkeypatch, died) == (kind, refusal)


def test_a_constructor_that_failed_of_anything_else_is_a_process_that_died(monkeypatch):
    died = ActorDiedError(RayTaskError("make", "ray::make()\nMemoryError: 3 GiB", MemoryError("3 GiB")))
    assert fetched(monkeypatch, died) == (ProcessDied, "its process died: MemoryError: 3 GiB")


def test_a_wait_for_a_state_ends_with_it_or_with_its_limit_and_says_once_what_for(capsys):
    tries, looks = iter([False, False, True]), []
    assert wait_until(lambda: next(tries), 60.0, "nodes", lambda: looks.append(1))
    assert looks == [1, 1]
    assert capsys.readouterr().err == "waiting up to 60 s for nodes\n"
    assert not wait_until(lambda: False, 0.02, "nodes", lambda: time.sleep(0.001), quiet_s=1.0)
    assert capsys.readouterr().err == "", "it was over before it was worth a word"

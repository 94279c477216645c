"""What a rank takes for the loss of the others, and what for an error of its own."""

import pytest
from torch.distributed import DistNetworkError

from learner.errors import LearnerLost, translate_collective_errors
from unisd_rl.errors import RunFailed

BROKEN = (
    RuntimeError("[/gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer. x"),
    RuntimeError("[/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 900000ms for recv"),
    DistNetworkError("The client socket has failed to connect"),
)
OWN = (
    RuntimeError("mat1 and mat2 do not fit"),
    RunFailed("the loss of this step is nan"),
    KeyError("x"),
)


@pytest.mark.parametrize("error", BROKEN, ids=str)
def test_a_broken_collective_is_a_lost_learner(error, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(LearnerLost, match="learner rank 1 lost the others"), translate_collective_errors():
        raise error


@pytest.mark.parametrize("error", OWN, ids=str)
def test_whatever_else_goes_wrong_stays_what_it_is(error):
    with pytest.raises(type(error)) as raised, translate_collective_errors():
        raise error
    assert raised.value is error


def test_a_method_that_all_ranks_call_is_watched_each_time_it_is_called(monkeypatch):
    monkeypatch.setenv("RANK", "1")

    @translate_collective_errors()
    def step(fails):
        if fails:
            raise BROKEN[0]
        return "done"

    assert step(fails=False) == "done"
    for _ in range(2):
        with pytest.raises(LearnerLost, match="learner rank 1 lost the others"):
            step(fails=True)

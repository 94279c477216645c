import math

import pytest
import torch

from learner.checks import check_finite, check_teacher_logprobs, logprob_mismatch
from unisd_rl.errors import RunFailed


@pytest.fixture(scope="module", autouse=True)
def one_rank(tmp_path_factory):
    store = tmp_path_factory.mktemp("rendezvous") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_constant_log_probs_stop_the_run():
    with pytest.raises(RunFailed, match=r"all 3 tokens of this step the same log-prob -1\.25"):
        check_teacher_logprobs(torch.full((3,), -1.25), 64)


def test_uniform_log_probs_stop_the_run():
    noise_N = torch.tensor([1e-6, -1e-6, 0.0])
    with pytest.raises(RunFailed, match="each of the 64 tokens equally likely"):
        check_teacher_logprobs(noise_N - math.log(64), 64)


def test_log_probs_that_are_not_finite_stop_the_run():
    with pytest.raises(RunFailed, match="not finite"):
        check_teacher_logprobs(torch.tensor([-1.0, math.nan]), 64)


@pytest.mark.parametrize("logprobs", [[], [-1.25], [-1.25, -1.26], [-math.log(64), -1.0]])
def test_a_teacher_that_says_something_passes(logprobs):
    check_teacher_logprobs(torch.tensor(logprobs), 64)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_number_stops_the_run(value):
    with pytest.raises(RunFailed, match=f"the gradient norm of this step is {value}"):
        check_finite("gradient norm", value)


def test_the_behaviour_gap_is_the_largest_difference():
    assert logprob_mismatch(torch.tensor([-1.0, -2.0]), torch.tensor([-1.25, -2.0]), 0.5) == 0.25


def test_a_gap_over_the_tolerance_stops_the_run_and_names_both_log_probs():
    with pytest.raises(RunFailed, match=r"the engine says -2, the learner -3 \(learner.logprob_tolerance = 0.5\)"):
        logprob_mismatch(torch.tensor([-1.0, -2.0]), torch.tensor([-1.25, -3.0]), 0.5)


def test_a_log_prob_that_is_no_number_stops_the_run():
    with pytest.raises(RunFailed, match="the learner nan"):
        logprob_mismatch(torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, math.nan]), 0.5)


def test_without_tokens_there_is_no_gap():
    assert math.isnan(logprob_mismatch(torch.empty(0), torch.empty(0), 0.5))

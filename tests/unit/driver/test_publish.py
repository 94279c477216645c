"""After an update engine and learner must be the same policy, up to how each rounds."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from unisd_rl.config.load import load_recipe
from unisd_rl.driver.publish import verify_published
from unisd_rl.errors import RunFailed
from unisd_rl.types import Message, PolicyVersion, Prompt

TOKENS = 60


@dataclass
class Engine:
    """Rollout actors whose answers have given log-probs."""

    logprobs: list[np.ndarray]

    def wait_for(self, version, timeout_s, on_wait): ...

    def answers(self, chats, sampling, version, on_wait):
        assert len(chats) == len(self.logprobs)
        for logprobs in self.logprobs:
            generation = SimpleNamespace(tokens=np.zeros(len(logprobs), np.int32), logprobs=logprobs)
            yield SimpleNamespace(prompt_tokens=np.zeros(3, np.int32), generation=generation)


@dataclass
class Learner:
    """A learner that finds each of those answers so likely."""

    logprobs_of: list[np.ndarray]

    def logprobs(self, prompt_tokens, completion_tokens):
        return self.logprobs_of.pop(0)


class Prompts:
    def problem(self, place):
        return Prompt(str(place), (Message("user", "?"),), ())


def verify(gaps, dtype):
    """Each answer's log-probs are -1 to the engine, and those less its gap to the learner."""
    engine = [np.full(len(gap), -1.0, np.float32) for gap in gaps]
    learner = [logprobs - np.asarray(gap, np.float32) for logprobs, gap in zip(engine, gaps, strict=True)]
    config = load_recipe("ema", {"model": {"dtype": dtype}})
    run = SimpleNamespace(config=config, prompts=Prompts(), rollouts=Engine(engine), learners=Learner(learner))
    verify_published(run, PolicyVersion(0, 1))


def rounded(size, worst):
    """Four answers of which one has a token that rounds badly."""
    gaps = [np.full(TOKENS, size) for _ in range(4)]
    gaps[2][5] = worst
    return gaps


def test_an_engine_that_rounds_as_bfloat16_does_has_the_weights():
    verify(rounded(0.03, worst=0.656), "bfloat16")


def test_an_engine_with_the_same_float32_weights_has_them():
    verify(rounded(1e-5, worst=1e-3), "float32")


def test_answers_without_a_token_are_nothing_to_compare():
    verify([[]] * 4, "float32")


@pytest.mark.parametrize(("dtype", "gap"), [("float32", 0.012), ("bfloat16", 0.5)])
@pytest.mark.parametrize("answers", [[TOKENS] * 4, [20, 0, 0, 20]])
def test_an_engine_that_kept_old_weights_ends_the_run(dtype, gap, answers):
    with pytest.raises(RunFailed, match=r"after the update to version 1 .* the engine did not take over all weights"):
        verify([np.full(tokens, gap) for tokens in answers], dtype)


def test_a_log_prob_that_is_no_number_ends_the_run():
    with pytest.raises(RunFailed, match="differ by nan nats"):
        verify(rounded(0.0, worst=np.nan), "bfloat16")

"""Both engines against a plain forward pass, before, during and after weight updates.

Engine starts of this file: vLLM twice (`tied_engine`, `untied_engine`, see conftest.py).
"""

import asyncio
import os
import signal

import numpy as np
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from actors.engines.engine import EngineDied, PromptFailed
from tests.fakes.engine_scenarios import (
    ENGINES,
    changed,
    gap,
    generate_all,
    likeliest_logprobs,
    oracle_logprobs,
    outcomes,
    prompts,
    sampling,
    snapshot_of,
    straddle,
    update,
    version,
)
from tests.fakes.snapshots import shared
from unisd_rl.transport.weights.manifest import UpdateRefused, label
from unisd_rl.transport.weights.vllm_trainer import VllmPushEndpoint
from unisd_rl.types import PolicyVersion

TOLERANCE = 1e-4


class Updates:
    """The weights an engine has, and the number of the next version: tests share an engine in any order."""

    def __init__(self, engine, path):
        self.engine = engine
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.number = -1

    def next(self):
        """Other weights, and their snapshot, not yet sent."""
        self.number += 1
        model = changed(self.model, seed=self.number)
        return model, *snapshot_of(model, self.number)

    def apply(self):
        """Send other weights; returns the engine's report."""
        self.model, manifest, buckets = self.next()
        report, applied = self.engine.call(update, manifest, buckets)
        assert applied == PolicyVersion(0, self.number)
        return report


@pytest.fixture(scope="module")
def tied(tied_engine, tied_model_path):
    return Updates(tied_engine, tied_model_path)


@pytest.fixture(scope="module")
def untied(untied_engine, untied_model_path):
    return Updates(untied_engine, untied_model_path)


def answers(engine, asked, max_tokens=40, **settings):
    return engine.call(generate_all, asked, [sampling(max_tokens, seed=i, **settings) for i in range(len(asked))])


def test_log_probs_are_those_of_a_forward_pass_at_the_sampling_temperature(tied_engine, tied):
    asked = prompts(48)
    for prompt, answer in zip(asked, answers(tied_engine, asked), strict=True):
        assert gap(tied.model, prompt, answer) < TOLERANCE


def test_an_answer_ends_with_its_one_stop_token_or_at_its_limit(tied_engine, tied):
    (stop,) = (256,)
    reasons = set()
    for answer in answers(tied_engine, prompts(32), max_tokens=150):
        assert stop not in answer.tokens[:-1]
        assert answer.finish_reason == ("stop" if answer.tokens[-1] == stop else "length")
        assert answer.finish_reason == "stop" or len(answer.tokens) == 150
        assert len(answer.tokens) == len(answer.logprobs) == len(answer.versions) == len(answer.lineages)
        reasons.add(answer.finish_reason)
    assert reasons == {"stop", "length"}


def test_greedy_answers_are_the_likeliest_tokens_with_their_plain_log_probs(tied_engine, tied):
    asked = prompts(8, seed=1)
    for prompt, answer in zip(asked, answers(tied_engine, asked, temperature=0.0), strict=True):
        expected = oracle_logprobs(tied.model, prompt, answer, temperature=1.0)
        np.testing.assert_allclose(answer.logprobs, expected, atol=TOLERANCE)
        text = torch.tensor(np.concatenate([prompt, answer.tokens])).long()[None]
        with torch.no_grad():
            likeliest = tied.model(text).logits[0, len(prompt) - 1 : -1].argmax(-1)
        assert likeliest.tolist() == answer.tokens.tolist()


def test_of_allowed_tokens_the_likeliest_is_sampled_with_its_share_of_theirs(tied_engine, tied):
    allowed = (7, 40, 99, 200)
    asked = prompts(8, seed=6)
    for prompt, answer in zip(asked, answers(tied_engine, asked, 1, temperature=0.0, allowed=allowed), strict=True):
        with torch.no_grad():
            logits = tied.model(torch.tensor(prompt).long()[None]).logits[0, -1, list(allowed)]
        assert answer.tokens.tolist() == [allowed[int(logits.argmax())]]
        np.testing.assert_allclose(answer.logprobs, [float(logits.log_softmax(-1).max())], atol=TOLERANCE)


def test_top_k_log_probs_are_renormalised_over_the_likeliest(tied_engine, tied):
    asked = prompts(8, seed=5)
    for prompt, answer in zip(asked, answers(tied_engine, asked, top_k=3), strict=True):
        full = oracle_logprobs(tied.model, prompt, answer)
        likeliest = likeliest_logprobs(tied.model, prompt, answer, count=3)
        np.testing.assert_allclose(answer.logprobs, full - np.logaddexp.reduce(likeliest, axis=-1), atol=TOLERANCE)
        assert (full >= likeliest[:, -1] - TOLERANCE).all()


def test_nucleus_log_probs_are_renormalised_over_what_was_kept(tied_engine, tied):
    asked = prompts(8, seed=2)
    for prompt, answer in zip(asked, answers(tied_engine, asked, top_p=0.5), strict=True):
        full = oracle_logprobs(tied.model, prompt, answer)
        assert (answer.logprobs >= full - TOLERANCE).all()
        assert (np.exp(full - answer.logprobs) >= 0.5 - 1e-3).all()  # the kept share is at least top_p


def test_the_same_seed_draws_the_same_answer_whoever_shares_the_batch(tied_engine, tied):
    asked = prompts(6, seed=3)
    together = answers(tied_engine, asked)
    (alone,) = tied_engine.call(generate_all, asked[4:5], [sampling(40, seed=4)])
    assert alone.tokens.tolist() == together[4].tokens.tolist()
    (other,) = tied_engine.call(generate_all, asked[4:5], [sampling(40, seed=5)])
    assert other.tokens.tolist() != alone.tokens.tolist()


def test_a_prompt_that_does_not_fit_fails_alone(tied_engine, tied):
    too_long = np.zeros(300, np.int32)
    good, bad = tied_engine.call(outcomes, [prompts(1)[0], too_long], [sampling(5), sampling(5)])
    assert len(good.tokens) <= 5
    assert isinstance(bad, PromptFailed)
    assert "300 tokens" in str(bad)


def test_requests_begun_after_an_update_are_answered_by_the_new_weights_with_a_tied_head(tied_engine, tied):
    assert_requests_after_an_update_see_only_new_weights(tied)


def test_requests_begun_after_an_update_are_answered_by_the_new_weights_with_an_untied_head(untied_engine, untied):
    assert_requests_after_an_update_see_only_new_weights(untied)


def test_an_answer_that_straddles_an_update_changes_weights_at_its_version_boundary_with_a_tied_head(tied_engine, tied):
    assert_straddling_answers_agree_on_both_spans(tied)


def test_an_answer_that_straddles_an_update_changes_weights_at_its_version_boundary_with_an_untied_head(
    untied_engine, untied
):
    assert_straddling_answers_agree_on_both_spans(untied)


def test_wrong_bytes_are_refused_and_the_engine_goes_on_with_its_old_weights(tied_engine, tied):
    tied.apply()
    _, manifest, buckets = tied.next()
    buckets[1][17] ^= 1
    with pytest.raises(UpdateRefused, match="bucket 1"):
        tied_engine.call(update, manifest, buckets)
    tied.number -= 1
    assert tied_engine.call(version) == PolicyVersion(0, tied.number)
    asked = prompts(8, seed=4)
    for prompt, answer in zip(asked, answers(tied_engine, asked), strict=True):
        assert set(answer.versions) == {tied.number}
        assert gap(tied.model, prompt, answer) < TOLERANCE
    tied.apply()


def test_a_later_lineage_may_have_a_lower_number(tied_engine, tied):
    tied.apply()
    manifest, buckets = snapshot_of(tied.model, 0, lineage=1)
    _, applied = tied_engine.call(update, manifest, buckets)
    assert applied == PolicyVersion(1, 0)
    (answer,) = tied_engine.call(generate_all, prompts(1), [sampling(5)])
    assert (set(answer.lineages), set(answer.versions)) == ({1}, {0})
    tied.apply()


def test_an_update_reports_its_pause_and_its_bytes(tied_engine, tied):
    report = tied.apply()
    assert 0 < report.load_ms <= report.pause_ms
    assert report.nbytes == sum(parameter.nbytes for parameter in tied.model.parameters())


@pytest.mark.engine
@pytest.mark.parametrize("tied_engine", ENGINES[1:], indirect=True)
def test_the_six_calls_of_a_trainer_engine_update_as_well(tied_engine, tied):
    tied.model, manifest, buckets = tied.next()
    announced, applied = tied_engine.call(pushed, manifest, buckets)
    assert (announced, applied) == (1, manifest.version)
    asked = prompts(4, seed=7)
    for prompt, answer in zip(asked, answers(tied_engine, asked), strict=True):
        assert set(answer.versions) == {tied.number}
        assert gap(tied.model, prompt, answer) < TOLERANCE


async def pushed(engine, manifest, buckets):
    """What `RayVLLMWeightSyncClient` calls on a rollout actor, in its order."""
    from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest

    announced = []

    async def announce():
        announced.append(engine.version)

    actor = VllmPushEndpoint(engine, asyncio.Lock(), announce)
    with shared(buckets) as paths:
        await actor.init_weight_transfer_engine(WeightTransferInitRequest())
        await actor.start_weight_update()
        await actor.update_weights(WeightTransferUpdateRequest({"manifest": manifest.to_json(), "paths": paths}))
        await actor.finish_weight_update()
        await actor.update_weight_version(label(manifest.version))
        await actor.shutdown_weight_transfer_engine()
    return len(announced), engine.version


def test_weights_that_do_not_fit_the_model_are_a_dead_engine_and_not_a_silent_one(untied_engine, untied):
    _, manifest, buckets = untied.next()
    kept = tuple(tuple(spec for spec in bucket if "norm" not in spec.name) for bucket in manifest.buckets)
    without_norms = type(manifest)(manifest.version, kept, manifest.checksums)
    with pytest.raises(EngineDied, match="norm"):
        untied_engine.call(update, without_norms, buckets)


def test_answers_in_flight_fail_when_the_engine_ends(untied_engine, untied):
    failures = untied_engine.call(ended_in_flight, prompts(4))
    assert [isinstance(failure, EngineDied) for failure in failures] == [True] * 4


async def ended_in_flight(engine, asked):
    """Kill the process that computes, or close an engine that has none; what do the calls in flight say?"""
    running = asyncio.create_task(outcomes(engine, asked, [sampling(150)] * len(asked)))
    await asyncio.sleep(0)
    cores = [child for child in psutil.Process().children() if "EngineCore" in child.name()]
    for core in cores:
        os.kill(core.pid, signal.SIGKILL)
    if not cores:
        await engine.close()
    return await running


def assert_requests_after_an_update_see_only_new_weights(updates):
    asked = prompts(16, seed=5)
    for _ in range(3):
        updates.apply()
        for prompt, answer in zip(asked, answers(updates.engine, asked), strict=True):
            assert set(answer.versions) == {updates.number}
            assert gap(updates.model, prompt, answer) < TOLERANCE


def assert_straddling_answers_agree_on_both_spans(updates):
    updates.apply()
    old, asked = updates.model, prompts(24, seed=6)
    updates.model, manifest, buckets = updates.next()
    straddling = 0
    for prompt, answer in zip(asked, updates.engine.call(straddle, asked, manifest, buckets), strict=True):
        assert (np.diff(answer.versions) >= 0).all()
        assert set(answer.versions) <= {updates.number - 1, updates.number}
        new = answer.versions == updates.number
        assert gap(old, prompt, answer, ~new) < TOLERANCE
        assert gap(updates.model, prompt, answer, new) < TOLERANCE
        straddling += bool(new.any() and not new.all())
    assert straddling >= 8

"""Both engines under LoRA against peft: only the adapter travels, and the base stays as it is.

Engine starts of this file: vLLM once (`adapted_engine`), twice more in the slow tier.
"""

import numpy as np
import pytest
import torch

from actors.engines.engine import NO_WEIGHTS, EngineDied
from tests.fakes.adapters import LORA, adapted_base, adapter_snapshot, blank_factors, random_factors, with_factors
from tests.fakes.engine_scenarios import ENGINES, gap, generate_all, prompts, sampling, straddle, update, version
from tests.fakes.engine_started import started
from unisd_rl.transport.weights.manifest import UpdateRefused
from unisd_rl.types import PolicyVersion

# Float32 rounding: padded and with a cache, either engine is up to 2e-5 nats away from one pass of the base alone.
TOLERANCES = {"transformers": 4e-5, "vllm": 1e-4}
VLLM = {"type": "vllm", "kv_cache_gib": 0.1}


class Adapters:
    """An engine under LoRA, the adapter it has, and what it answered before the first one."""

    def __init__(self, engine, path, kind):
        self.engine, self.path, self.tolerance = engine, path, TOLERANCES[kind]
        self.base = adapted_base(path)
        self.model, self.number = self.base, NO_WEIGHTS.number
        self.fresh = self.answers()
        self.straddling_the_first = self.straddle()

    def next(self):
        """Other factors, and their snapshot, not yet sent."""
        self.number += 1
        factors = random_factors(self.path, seed=self.number)
        return with_factors(self.path, factors), *adapter_snapshot(factors, self.number)

    def apply(self):
        """Send other factors; returns the engine's report."""
        self.model, manifest, buckets = self.next()
        report, applied = self.engine.call(update, manifest, buckets)
        assert applied == PolicyVersion(0, self.number)
        return report

    def answers(self, count=12, max_tokens=40):
        return self.engine.call(generate_all, prompts(count), [sampling(max_tokens, seed=i) for i in range(count)])

    def straddle(self):
        """Answers in flight while other factors arrive; the model before, the model after, and the answers."""
        old = self.model
        self.model, manifest, buckets = self.next()
        return old, self.model, self.number, self.engine.call(straddle, prompts(24), manifest, buckets)


def adapted(settings, path, logs, **model):
    for engine in started(settings, path, logs, model={"lora": LORA, **model}):
        yield Adapters(engine, path, settings["type"])


@pytest.fixture(scope="module", params=ENGINES)
def adapted_engine(request, tied_model_path, tmp_path_factory):
    yield from adapted(request.param, tied_model_path, tmp_path_factory.mktemp("adapted_log"))


def assert_agreement(adapters, answers, model=None, number=None):
    number = adapters.number if number is None else number
    for prompt, answer in zip(prompts(len(answers)), answers, strict=True):
        assert set(answer.versions) == {number}
        assert gap(model or adapters.model, prompt, answer) < adapters.tolerance


def assert_both_spans_agree(adapters, straddled):
    old, new, number, answers = straddled
    straddling = 0
    for prompt, answer in zip(prompts(len(answers)), answers, strict=True):
        assert (np.diff(answer.versions) >= 0).all()
        assert set(answer.versions) <= {number - 1, number}
        late = answer.versions == number
        assert gap(old, prompt, answer, ~late) < adapters.tolerance
        assert gap(new, prompt, answer, late) < adapters.tolerance
        straddling += bool(late.any() and not late.all())
    assert straddling >= 8


def test_before_the_first_adapter_the_base_answers(adapted_engine):
    assert_agreement(adapted_engine, adapted_engine.fresh, adapted_engine.base, NO_WEIGHTS.number)


def test_an_answer_that_straddles_the_first_adapter_begins_with_the_base(adapted_engine):
    assert_both_spans_agree(adapted_engine, adapted_engine.straddling_the_first)


def test_requests_begun_after_an_update_are_answered_with_the_new_adapter(adapted_engine):
    for _ in range(3):
        adapted_engine.apply()
        assert_agreement(adapted_engine, adapted_engine.answers())


def test_an_answer_that_straddles_an_update_changes_adapters_at_its_version_boundary(adapted_engine):
    adapted_engine.apply()
    assert_both_spans_agree(adapted_engine, adapted_engine.straddle())


def test_an_adapter_with_b_zero_is_the_base_to_the_last_bit_whatever_came_before(adapted_engine):
    adapted_engine.apply()
    adapted_engine.number += 1
    adapted_engine.model = adapted_engine.base
    snapshot = adapter_snapshot(blank_factors(adapted_engine.path), adapted_engine.number)
    adapted_engine.engine.call(update, *snapshot)
    for answer, fresh in zip(adapted_engine.answers(), adapted_engine.fresh, strict=True):
        assert answer.tokens.tolist() == fresh.tokens.tolist()
        assert answer.logprobs.tolist() == fresh.logprobs.tolist()
        assert set(answer.versions) == {adapted_engine.number}


def test_the_adapter_makes_a_difference(adapted_engine):
    adapted_engine.apply()
    moved = [gap(adapted_engine.base, *pair) for pair in zip(prompts(12), adapted_engine.answers(), strict=True)]
    assert min(moved) > 0.1


def test_wrong_bytes_are_refused_and_the_engine_goes_on_with_its_old_adapter(adapted_engine):
    adapted_engine.apply()
    _, manifest, buckets = adapted_engine.next()
    buckets[1][17] ^= 1
    assert_refused(adapted_engine, manifest, buckets, "bucket 1")


@pytest.mark.parametrize(
    "spoil, sentence",
    [
        (lambda factors, name: factors.pop(name), "leaves out 1 tensors .*q_proj.lora_B"),
        (lambda factors, name: factors.update({name: torch.zeros(5, 6)}), r"q_proj.lora_B.* \[5, 6\], not \[128, 6\]"),
        (lambda factors, name: factors.update({name.replace("q_proj", "k_proj"): factors[name]}), "k_proj.lora_B"),
        (lambda factors, name: factors.update({name.replace("layers.1", "layers.7"): factors[name]}), "layers.7"),
        (lambda factors, name: factors.update({"lm_head.weight": torch.zeros(300, 128)}), "lm_head"),
    ],
    ids=["missing", "shape", "other_target", "other_layer", "base_weight"],
)
def test_an_adapter_for_another_model_is_refused_and_the_engine_goes_on(adapted_engine, spoil, sentence):
    adapted_engine.apply()
    factors = random_factors(adapted_engine.path, seed=99)
    spoil(factors, "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight")
    adapted_engine.number += 1
    assert_refused(adapted_engine, *adapter_snapshot(factors, adapted_engine.number), sentence)


def assert_refused(adapters, manifest, buckets, sentence):
    with pytest.raises(UpdateRefused, match=sentence):
        adapters.engine.call(update, manifest, buckets)
    adapters.number -= 1
    assert adapters.engine.call(version) == PolicyVersion(0, adapters.number)
    assert_agreement(adapters, adapters.answers(count=4))


def test_an_update_reports_its_pause_and_the_bytes_of_the_adapter_alone(adapted_engine):
    report = adapted_engine.apply()
    assert 0 < report.load_ms <= report.pause_ms
    assert report.nbytes == sum(factor.nbytes for factor in random_factors(adapted_engine.path, seed=0).values())


@pytest.mark.slow
@pytest.mark.engine
def test_an_untied_head_is_left_alone_and_a_load_that_did_not_happen_is_noticed(untied_model_path, tmp_path):
    for adapters in adapted(VLLM, untied_model_path, tmp_path):
        assert_agreement(adapters, adapters.answers())
        assert_both_spans_agree(adapters, adapters.straddle())
        _, manifest, buckets = adapters.next()
        with pytest.raises(EngineDied, match="10 layers do not compute with what was sent"):
            adapters.engine.call(update_without_load, manifest, buckets)


async def update_without_load(engine, manifest, buckets):
    """vLLM says that it loaded the adapter, and did not."""

    async def nothing(request):
        return True

    engine.llm.add_lora = nothing
    await engine.receive(manifest, buckets)


@pytest.mark.slow
@pytest.mark.engine
def test_float32_factors_arrive_in_a_model_of_bfloat16_rounded_once(untied_model_path, tmp_path):
    for engine in started(VLLM, untied_model_path, tmp_path, model={"lora": LORA, "dtype": "bfloat16"}):
        factors = random_factors(untied_model_path, seed=0)
        _, applied = engine.call(update, *adapter_snapshot(factors, 0))  # refuses what was rounded otherwise
        assert applied == PolicyVersion(0, 0)
        asked = prompts(8)
        answers = engine.call(generate_all, asked, [sampling(20, seed=i) for i in range(8)])
        models = [with_factors(untied_model_path, factors), adapted_base(untied_model_path)]
        ours, base = (np.mean([gap(model, *pair) for pair in zip(asked, answers, strict=True)]) for model in models)
        assert ours < base / 3

"""Real DeepSpeed on a tiny random model of each family, all weights and LoRA: they take steps of UniSD*, packing
changes no gradient, a checkpoint loads in transformers, the engine takes over what is published, training resumes.
"""

import asyncio
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.engines.engine import EngineSpec
from actors.engines.transformers_engine import TransformersRolloutEngine
from tests.fakes.families import END, FAMILIES, TARGETS, save_family
from tests.fakes.learner_findings import Found, relative
from tests.fakes.learner_rig import Case, learner_config, make_rollouts
from tests.fakes.snapshots import take_snapshot
from unisd_rl.config.model import LoraConfig
from unisd_rl.models.load import write_text_decoder
from unisd_rl.types import PolicyVersion, Sampling

STEPS = 5
WINDOW = 12
"""Of gemma3's sliding attention."""
RESUMED = 2
ROLLOUTS = make_rollouts(count=8)
KINDS = ("full", "lora")
EACH = pytest.mark.parametrize("name", FAMILIES)
EACH_KIND = pytest.mark.parametrize("kind", KINDS)
IDS = torch.arange(3, 40)[None]


def lora(name):
    return {"rank": 4, "alpha": 8, **({"targets": TARGETS[name]} if name in TARGETS else {})}


def make(name, folder):
    """The model that the learner gets: of gemma3 the text decoder."""
    released = save_family(name, folder / "released")
    if name != "gemma3":
        return released
    write_text_decoder(released, folder / "text")
    return folder / "text"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: make(name, folder / name) for name in FAMILIES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("architectures")


@pytest.fixture(scope="module")
def found(models, folder):
    cases = []
    for name in FAMILIES:
        learner = {"layout": "packed", "learning_rate": 3e-3}
        config = learner_config(learner=learner)
        full = Case(f"{name} full", config, models[name], (ROLLOUTS,), STEPS, folder / f"{name} full")
        adapted = replace(
            full,
            name=f"{name} lora",
            config=learner_config(learner={**learner, "learning_rate": 1e-2}, model={"lora": lora(name)}),
            save=folder / f"{name} lora",
        )
        rows = learner_config(learner={"layout": "padded"})
        cases += [full, adapted, Case(f"{name} padded", rows, models[name], (ROLLOUTS,), 1)]
        for case in (full, adapted):
            early = folder / f"{case.name} early"
            cases += [replace(case, name=f"{case.name} early", steps=RESUMED, save=early)]
            again = {"resume": early, "first": RESUMED, "steps": STEPS - RESUMED, "save": None}
            cases += [replace(case, name=f"{case.name} resumed", **again)]
    return Found(folder / "found", cases, ranks=1)


def test_sequences_are_longer_than_the_window():
    longest = [max(len(view.tokens) for view in one.views) + len(one.completion_tokens) for one in ROLLOUTS]
    assert min(longest) > WINDOW


@EACH
@EACH_KIND
def test_a_few_steps_improve_the_loss_on_the_same_batch(found, name, kind):
    losses = [report["loss"] for report in found[f"{name} {kind}"]["reports"]]
    assert losses[-1] < 0.9 * losses[0], losses


@EACH
@EACH_KIND
def test_all_five_mechanisms_act(found, name, kind):
    first, second = found[f"{name} {kind}"]["reports"][:2]
    assert 0 < first["clipped_share"] < 1
    assert first["effective_sample_size"] < 0.99
    assert first["contrastive_active_share"] > 0
    assert first["matching_loss"] > 0
    assert second["teacher_update_norm"] > 0


@EACH
def test_packed_rows_have_the_gradient_of_padded_ones(found, name):
    packed, padded = found[f"{name} full"]["gradient 0"], found[f"{name} padded"]["gradient 0"]
    assert packed.keys() == padded.keys()
    error = sum(float((packed[key].double() - padded[key].double()).square().sum()) for key in padded)
    assert math.sqrt(error / sum(float(one.double().square().sum()) for one in padded.values())) < 1e-5
    assert found[f"{name} full"]["reports"][0]["padding_share"] == 0
    assert found[f"{name} padded"]["reports"][0]["padding_share"] > 0


@EACH
@EACH_KIND
def test_a_resumed_learner_takes_the_steps_that_it_would_have_taken(found, name, kind):
    resumed, whole = found[f"{name} {kind} resumed"], found[f"{name} {kind}"]
    assert relative(resumed["masters"], whole["masters"]) < 1e-6
    assert relative(resumed["teacher"], whole["teacher"]) < 1e-6


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@EACH
@EACH_KIND
def test_a_checkpoint_is_the_student_to_transformers(found, folder, name, kind):
    from transformers import AutoModelForCausalLM

    saved = AutoModelForCausalLM.from_pretrained(folder / f"{name} {kind}")
    first, expected = ROLLOUTS[0], found[f"{name} {kind}"]["logprobs"]
    tokens = torch.tensor([*first.prompt_tokens, *first.completion_tokens], dtype=torch.long)[None]
    start = len(first.prompt_tokens) - 1
    with torch.no_grad():
        logprob = torch.log_softmax(saved.eval()(input_ids=tokens).logits[0, start:-1] / 0.7, -1)
    assert torch.allclose(logprob.gather(-1, tokens[0, start + 1 :, None])[:, 0], expected, atol=1e-4)


@EACH
def test_a_merged_checkpoint_is_its_adapter_on_the_base(found, models, folder, name):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(models[name])
    without = logits(plain)
    adapted = logits(PeftModel.from_pretrained(plain, folder / f"{name} lora" / "adapter"))
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(folder / f"{name} lora")), adapted, atol=1e-4)
    assert float((adapted - without).abs().max()) > 1e-2


@EACH
@EACH_KIND
def test_the_transformers_engine_answers_with_what_was_published(found, models, folder, name, kind):
    from transformers import AutoModelForCausalLM

    adapter = LoraConfig(**lora(name)) if kind == "lora" else None
    weights = found[f"{name} {kind}"]["weights"].items()
    spec = EngineSpec(models[name], "float32", (), 128, 4, (END,), True, 0, adapter)

    async def generate():
        engine = TransformersRolloutEngine(spec)
        await engine.start()
        try:
            await engine.receive(*take_snapshot(PolicyVersion(0, STEPS), weights, 10_000))
            prompt = ROLLOUTS[0].prompt_tokens
            return await engine.generate(prompt, Sampling(1.0, 1.0, max_tokens=8, seed=0))
        finally:
            await engine.close()

    answer = asyncio.run(generate())
    ids = torch.from_numpy(np.concatenate([ROLLOUTS[0].prompt_tokens, answer.tokens]).astype(np.int64))[None]
    saved = AutoModelForCausalLM.from_pretrained(folder / f"{name} {kind}").eval()
    with torch.no_grad():
        logprob = torch.log_softmax(saved(input_ids=ids).logits[0], -1)[-len(answer.tokens) - 1 : -1]
    expected = logprob.gather(-1, ids[0, -len(answer.tokens) :, None])[:, 0]
    assert np.allclose(answer.logprobs, expected.numpy(), atol=1e-4)

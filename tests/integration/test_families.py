"""A tiny random model of each family through the commands run, `--resume` and evaluate, in the class it is released in.

One Ray cluster for all. Engine starts of this file: three of vLLM for each of its walks, all in the slow tier.
"""

import math

import pytest
import ray
import torch

from tests.fakes.families import FAMILIES
from tests.fakes.family_commands import BATCH, STEPS, walk
from tests.fakes.finished import assert_accuracy_is_what_its_items_say, assert_every_prompt_exactly_once_and_in_order

SLOW = pytest.mark.slow
VLLM = (pytest.mark.slow, pytest.mark.engine)
WALKS = [pytest.param((name, kind, "transformers"), marks=SLOW) for name in FAMILIES for kind in ("full", "lora")]
WALKS += [pytest.param((name, kind, "vllm"), marks=VLLM) for name in ("qwen2", "llama") for kind in ("full", "lora")]


@pytest.fixture(scope="module", params=WALKS, ids="-".join)
def walked(request, cluster, tmp_path_factory):
    address = ray.get_runtime_context().gcs_address
    return walk(tmp_path_factory.mktemp("family") / "walk", address, *request.param)


def test_it_trains_and_resumes(walked):
    run = walked.run
    assert_every_prompt_exactly_once_and_in_order(run, STEPS, BATCH)
    assert_accuracy_is_what_its_items_say(run)
    assert run.summary["status"] == "completed"
    assert [(fall["lineage"], fall["step"]) for fall in run.rollbacks] == [(1, STEPS - 1)]


def test_the_resumed_step_is_the_one_that_was_lost(walked):
    *_, lost = walked.losses_before
    *_, again = [row["loss"] for row in walked.run.metrics]
    assert again == pytest.approx(lost, rel=1e-5)


def test_the_engines_log_probs_are_the_learners(walked):
    gaps = [row["logprob_mismatch_max"] for row in walked.run.metrics if row["logprob_mismatch_max"] is not None]
    assert gaps
    assert max(gaps) < 1e-3


def test_its_checkpoint_loads_in_transformers_and_differs_from_what_it_began_with(walked):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    saved = walked.run.checkpoint(STEPS)
    models = [AutoModelForCausalLM.from_pretrained(path) for path in (walked.started_from, saved)]
    ids = AutoTokenizer.from_pretrained(saved)("10+30?", return_tensors="pt").input_ids
    with torch.no_grad():
        before, after = (model.eval()(input_ids=ids).logits for model in models)
    assert type(models[0]) is type(models[1])
    assert 1e-5 < float((after - before).abs().max()) < math.inf


def test_both_models_are_evaluated_with_retention(walked):
    results = walked.evaluation["results"]
    assert len(results) == 2
    first, second = (result["retention"] for result in results)
    assert first["jsd"] == pytest.approx(0.0, abs=1e-6)
    assert second["jsd"] > 0
    assert all(math.isfinite(value) for value in second.values())

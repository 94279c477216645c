"""Real DeepSpeed and peft: student and teacher are two adapters on one base that is never written.

Two jobs of processes, one rank and two ranks; each builds its learners one after the other.
"""

import pytest
import torch

from tests.fakes.learner_findings import (
    ONE_SIDED,
    ROLLOUTS,
    UNEVEN,
    WHOLE,
    Found,
    assert_the_teacher_moved_by_its_share_of_the_gap,
    relative,
)
from tests.fakes.learner_rig import Case, learner_config, make_model

RANK, ALPHA = 4, 8
LORA = {"rank": RANK, "alpha": ALPHA}
STAGES = range(4)
TOKENS = {1: 10_000, 4: 40}
"""Of a gradient pass, so that the student's 152 tokens take so many passes on one rank."""


def case(name, path, shards, stage=0, passes=1, model=None, save=None):
    learner = {"zero_stage": stage, "micro_batch_tokens": TOKENS[passes], "ranks": len(shards)}
    model = {"lora": LORA} if model is None else model
    return Case(name, learner_config(learner=learner, model=model), path, shards, 2, save)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lora")


@pytest.fixture(scope="module")
def base(folder):
    return make_model(folder / "base", tied=True)


@pytest.fixture(scope="module")
def one_rank(folder, base):
    cases = [
        case(f"stage {stage} passes {passes}", base, WHOLE, stage, passes, save=folder / f"saved-{stage}-{passes}")
        for stage in STAGES
        for passes in TOKENS
    ]
    cases += [case("full", base, WHOLE, model={})]
    cases += [case(f"bfloat16 {n}", base, WHOLE, n, model={"lora": LORA, "dtype": "bfloat16"}) for n in (0, 3)]
    return Found(folder / "one", cases, ranks=1)


@pytest.fixture(scope="module")
def two_ranks(folder, base):
    cases = [
        case(f"stage {stage} passes {passes}", base, UNEVEN, stage, passes, save=folder / f"two-saved-{stage}-{passes}")
        for stage in STAGES
        for passes in TOKENS
    ]
    cases += [case(f"one-sided {stage}", base, ONE_SIDED, stage, 4) for stage in STAGES]
    return Found(folder / "two", cases, ranks=2)


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("stage,passes", [(stage, passes) for stage in STAGES for passes in TOKENS])
def test_the_same_gradient_on_any_stage_ranks_and_micro_batches(one_rank, two_ranks, stage, passes, step):
    expected = one_rank["stage 0 passes 1"][f"gradient {step}"]
    assert relative(one_rank[f"stage {stage} passes {passes}"][f"gradient {step}"], expected) < 1e-5
    assert relative(two_ranks[f"stage {stage} passes {passes}"][f"gradient {step}"], expected) < 1e-5


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("stage", STAGES)
def test_the_same_gradient_with_a_rank_that_has_no_rollouts(one_rank, two_ranks, stage, step):
    expected = one_rank["stage 0 passes 1"][f"gradient {step}"]
    assert relative(two_ranks[f"one-sided {stage}"][f"gradient {step}"], expected) < 1e-5


def test_the_factors_gradient_is_the_whole_weights_through_the_product(one_rank):
    """With B = 0 the model is the base: dL/dB = alpha / r dL/dW A^T, and A has no gradient yet."""
    found, full = one_rank["stage 0 passes 1"], one_rank["full"]["gradient 0"]
    expected, quiet = {}, 0.0
    for name, factor in found["masters 0"].items():
        weight = name.removeprefix("base_model.model.")
        if ".lora_A." in name:
            quiet = max(quiet, float(found["gradient 0"][name].abs().max()))
            gradient = full[weight.replace(".lora_A.", ".")]
            expected[name.replace("lora_A", "lora_B")] = ALPHA / RANK * gradient @ factor.T
    assert quiet == 0.0
    assert relative({name: found["gradient 0"][name] for name in expected}, expected) < 1e-5


def test_line_01_the_adapters_teacher_moves_by_exactly_its_share_of_the_gap(one_rank, two_ranks):
    for found in (
        *(one_rank[f"stage {n} passes 1"] for n in STAGES),
        *(two_ranks[f"stage {n} passes 4"] for n in STAGES),
    ):
        assert relative(found["teacher"], found["teacher 0"]) > 1e-4
        assert_the_teacher_moved_by_its_share_of_the_gap(found)


@pytest.mark.parametrize("stage", [0, 3])
def test_a_bfloat16_adapter_has_a_float32_teacher_that_moves_by_its_share(one_rank, stage):
    found = one_rank[f"bfloat16 {stage}"]
    assert_the_teacher_moved_by_its_share_of_the_gap(found)
    assert all(tensor.dtype == torch.bfloat16 for tensor in found["weights"].values())
    assert relative(found["gradient 0"], one_rank["stage 0 passes 1"]["gradient 0"]) < 0.1


def test_line_09_the_base_is_never_written(one_rank, two_ranks, base):
    from transformers import AutoModelForCausalLM

    plain = dict(AutoModelForCausalLM.from_pretrained(base).named_parameters())
    for found in (
        *(one_rank[f"stage {n} passes 1"] for n in STAGES),
        *(two_ranks[f"stage {n} passes 1"] for n in STAGES),
    ):
        assert found["base"].keys() == plain.keys()
        assert all(torch.equal(found["base"][name], weight) for name, weight in plain.items())
        assert max(float(tensor.abs().max()) for name, tensor in found["weights"].items() if "lora_B" in name) > 0


def test_only_the_adapter_travels_under_the_names_of_its_file(one_rank, folder):
    from safetensors.torch import load_file

    sent = one_rank["stage 0 passes 1"]["weights"]
    stored = load_file(folder / "saved-0-1" / "adapter" / "adapter_model.safetensors")
    assert sent.keys() == stored.keys()
    assert len(sent) == 2 * 7 * 2  # two factors of seven layers in two blocks
    assert all(torch.equal(sent[name], stored[name]) for name in sent)


@pytest.mark.parametrize("name,key", [("saved-0-1", "stage 0 passes 1"), ("saved-3-4", "stage 3 passes 4")])
def test_a_saved_checkpoint_is_the_merged_student_and_its_adapter_is_the_student_on_the_base(
    one_rank, folder, base, name, key
):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ids = torch.arange(20)[None]
    merged = AutoModelForCausalLM.from_pretrained(folder / name)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder / name / "adapter")
    plain = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        whole, onto, without = (model(input_ids=ids).logits for model in (merged, adapted, plain))
    assert torch.allclose(whole, onto, atol=1e-4)
    assert float((whole - without).abs().max()) > 1e-2
    first = ROLLOUTS[0]
    tokens = torch.tensor([*first.prompt_tokens, *first.completion_tokens], dtype=torch.long)[None]
    start = len(first.prompt_tokens) - 1
    with torch.no_grad():
        logprob = torch.log_softmax(merged(input_ids=tokens).logits[0, start:-1] / 0.7, -1)
    expected = logprob.gather(-1, tokens[0, start + 1 :, None])[:, 0]
    assert torch.allclose(expected, one_rank[key]["logprobs"], atol=1e-4)


def test_a_checkpoint_saved_by_sharded_ranks_is_that_of_one(two_ranks, folder):
    from safetensors.torch import load_file

    found, expected = (load_file(folder / name / "model.safetensors") for name in ("two-saved-3-4", "two-saved-0-4"))
    assert relative(found, expected) < 1e-5


@pytest.mark.parametrize("targets,said", [(("nowhere",), "nowhere"), (("q_proj", "lm_head"), "output head")])
def test_layers_that_cannot_be_adapted_are_refused_in_one_sentence(base, targets, said):
    from transformers import AutoModelForCausalLM

    from learner.lora import add_adapters
    from unisd_rl.config.model import LoraConfig
    from unisd_rl.errors import UserError

    with pytest.raises(UserError, match=said):
        add_adapters(AutoModelForCausalLM.from_pretrained(base), LoraConfig(targets=targets), 0)

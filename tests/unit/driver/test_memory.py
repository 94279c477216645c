"""The memory of each process is what a hand adds up from the configuration and the model's shape."""

import re
from dataclasses import replace

import pytest

from unisd_rl.config.load import load_recipe
from unisd_rl.driver.memory import (
    actor_parts,
    backward_bytes,
    describe_memory,
    learner_parts,
    learner_states,
    optimizer_bytes,
    run_memory,
    save_bytes,
    scoring_bytes,
    update_bytes,
)
from unisd_rl.models.shape import ModelShape

GIB = 1 << 30
FULL = ModelShape(
    parameters=1_000_000,
    trained=1_000_000,
    largest=400_000,
    head=400_000,
    vocabulary=4_000,
    hidden=100,
    layers=5,
    keys_and_values=300,
    kept_bytes=20_000,
    widest_bytes=1_600,
)
LORA = ModelShape(
    parameters=1_000_000,
    trained=30_000,
    largest=2_000,
    head=400_000,
    vocabulary=4_000,
    hidden=100,
    layers=5,
    keys_and_values=300,
    kept_bytes=18_000,
    widest_bytes=1_600,
)
ADAPTER = {"model": {"lora": {"rank": 8}}}
BFLOAT16 = {"model": {"dtype": "bfloat16"}}


def config(*sections, **learner):
    rollout = {"max_prompt_tokens": 60, "max_completion_tokens": 40}
    few = {"micro_batch_tokens": 1_000, "scoring_tokens": 1_000, "chunk_tokens": 50}
    over = {"rollout": rollout, "learner": few | learner}
    for section in sections:
        over |= section
    return load_recipe("unisd_star", over)


def parts(config, shape=FULL):
    return {part.name: part.nbytes for part in learner_parts(config, shape)}


def test_a_rank_that_trains_all_weights_in_float32():
    """Of the weights, the teacher's copy, two moments and the gradients, 4 bytes each."""
    backward = 2 * 20_000 * 1_000 + 4 * 400_000 + max(2 * 50 * 4_000 * 4 + 4 * 100 * 1_000, 3 * 1_600 * 1_000)
    assert parts(config()) == {
        "weights": 4_000_000,
        "teacher": 4_000_000,
        "optimizer": 8_000_000,
        "gradients": 4_000_000,
        "backward pass": backward,
    }
    assert backward_bytes(config(), FULL) == backward


def test_under_an_adapter_the_base_is_there_once_and_only_factors_are_trained():
    found = parts(config(ADAPTER), LORA)
    assert found["weights"] == 4 * (1_000_000 + 30_000)
    assert found["teacher"] == 4 * 30_000
    assert found["optimizer"] == 8 * 30_000
    assert found["gradients"] == 4 * 30_000
    assert found["backward pass"] == 2 * 18_000 * 1_000 + 3 * 1_600 * 1_000  # the head is frozen


def test_in_bfloat16_masters_and_the_average_are_float32_beside_the_weights():
    found = parts(config(BFLOAT16))
    assert found["weights"] == 2_000_000
    assert found["teacher"] == (2 + 4) * 1_000_000
    assert found["optimizer"] == (8 + 4) * 1_000_000


@pytest.mark.parametrize(
    "learner,expected",
    [
        ({}, 8.0),
        ({"optimizer": "adamw_8bit"}, 2 + 2 * 4 / 256),
        ({"zero_stage": 1}, 12.0),  # DeepSpeed's flat masters
        ({"zero_stage": 2, "ranks": 4}, 12.0 / 4),
        ({"offload_optimizer": True}, 8.0 + 4 + 4 + 4),  # with gradients, and weights on their way back
    ],
)
def test_bytes_of_the_optimizer_for_each_trained_weight(learner, expected):
    assert optimizer_bytes(config(**learner), FULL) / 1_000_000 == expected


def test_offloaded_the_optimizer_is_in_memory_and_the_rest_on_the_gpu():
    placed = {"gpus_per_rank": 1.0}
    for learner, on_gpu in (({"offload_optimizer": True}, False), ({}, True)):
        by_name = {part.name: part for part in learner_parts(config(**placed, **learner), FULL)}
        assert by_name.pop("optimizer").on_gpu is on_gpu
        assert all(part.on_gpu for part in by_name.values())


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_in_turns_on_one_gpu_it_holds_the_learners_peak_or_what_stays_beside_the_engine(share):
    rollout = {"gpus_per_actor": 0.5, "engine": {"type": "vllm", "gpu_memory_utilization": share}}
    sections = {"run": {"placement": "colocated"}, "rollout": rollout, "learner": {"gpus_per_rank": 0.5}}
    shared = load_recipe("unisd_star", sections)
    large = replace(FULL, parameters=500_000_000, trained=500_000_000)
    stays, peak = (sum(part.nbytes for part in of(shared, large)) / GIB for of in (learner_states, learner_parts))
    assert stays / 0.9 < peak < stays / 0.5, "either decides"
    needed = max(peak, stays / (1 - share))
    (line,) = [line for line in describe_memory(shared, large, None) if line.startswith("  on one GPU")]
    assert [float(word) for word in re.findall(r"([\d.]+) GiB", line)] == pytest.approx([peak, stays, needed], rel=0.01)
    assert not any("on one GPU" in line for line in describe_memory(load_recipe("unisd_star", {}), large, None))


def test_zero_3_divides_what_is_kept_and_stage_0_nothing():
    found = parts(config(zero_stage=3, ranks=4))
    assert found["weights"] == found["teacher"] == 1_000_000
    assert parts(config(ranks=4))["weights"] == 4_000_000


def test_recomputing_activations_keeps_the_input_of_each_layer_and_one_layer():
    kept = 2 * (5 * 100 * 4 + 20_000 // 5) * 1_000
    expected = kept + 4 * 400_000 + 3 * 1_600 * 1_000
    assert backward_bytes(config(gradient_checkpointing=True), FULL) == expected


def test_a_pass_has_no_more_tokens_than_its_batch_and_at_least_one_longest_sequence():
    """4 completions of 100 tokens, though the budget is 1,000; 100 tokens though the budget is 10."""
    few = config(batch_size=4)
    assert backward_bytes(few, FULL) == 2 * 20_000 * 400 + 4 * 400_000 + 3 * 1_600 * 400
    # 50 tokens a chunk: its two logits are more than a layer's gradients
    assert backward_bytes(config(micro_batch_tokens=10), FULL) == (
        2 * 20_000 * 100 + 4 * 400_000 + 2 * 50 * 4_000 * 4 + 4 * 100 * 100
    )
    views = 5  # primary, 3 auxiliary, negative
    assert (
        scoring_bytes(config(batch_size=4, scoring_tokens=9_999), FULL) == (4 * 1_600 + 3 * 100 * 4) * 4 * views * 100
    )


def test_an_update_has_temporaries_of_the_largest_tensor_with_moments_of_eight_bits_alone():
    assert update_bytes(config(), FULL) == update_bytes(config(zero_stage=1), FULL) == 0
    assert update_bytes(config(optimizer="adamw_8bit"), FULL) == 6 * 4 * 400_000
    assert update_bytes(config(optimizer="adamw_8bit", zero_stage=1), FULL) == 6 * 4 * 1_000_000  # a flat piece of all


def test_a_checkpoint_copies_two_files_of_its_state_and_no_weights():
    assert save_bytes(FULL) == 2 * 3 * 4_000_000
    assert save_bytes(replace(FULL, parameters=GIB, trained=GIB)) == GIB / 2


def test_without_a_teacher_there_is_none():
    alone = load_recipe("sft", {})
    assert "teacher" not in {part.name for part in learner_parts(alone, FULL)}


def test_an_actor_has_weights_keys_and_values_and_a_version_under_way():
    cpu = {part.name: part.nbytes for part in actor_parts(config(), FULL)}
    assert cpu == {"weights": 4_000_000, "keys and values": 0.5 * GIB, "a version under way": 4_000_000}
    rows = config({"rollout": {"engine": {"type": "transformers"}, "concurrency": 8, "max_prompt_tokens": 60}})
    found = {part.name: part.nbytes for part in actor_parts(rows, FULL)}
    assert found["keys and values"] == 8 * (60 + rows.rollout.max_completion_tokens) * 300 * 4


def test_the_object_store_holds_three_versions_of_what_is_published():
    (full,) = [each for each in run_memory(config(), FULL) if each.process == "object store"]
    (adapter,) = [each for each in run_memory(config(ADAPTER), LORA) if each.process == "object store"]
    assert (full.nbytes, adapter.nbytes) == (3 * 4_000_000, 3 * 4 * 30_000)


def test_what_does_not_fit_this_machine_is_said_with_a_remedy():
    needed = sum(each.nbytes * each.count for each in run_memory(config(), FULL))
    *_, enough = describe_memory(config(), FULL, needed)
    *_, short = describe_memory(config(), FULL, needed - 1)
    *_, elsewhere = describe_memory(config(), FULL, None)
    assert enough.endswith("are available on this machine")
    assert "lower rollout.actors" in short
    assert elsewhere.startswith("  1 x object store")

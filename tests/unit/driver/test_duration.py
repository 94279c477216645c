"""The time of a step on GPUs is what a hand adds up from the configuration and the model's size."""

import pytest

from tests.unit.driver.test_memory import FULL
from unisd_rl.config.load import load_recipe
from unisd_rl.driver.duration import GPU_BYTES, GPU_FLOPS, describe_duration, step_seconds

GPUS = {
    "run": {"steps": 100},
    "model": {"dtype": "bfloat16"},
    "rollout": {
        "gpus_per_actor": 1, "concurrency": 5, "max_prompt_tokens": 60, "max_completion_tokens": 40, "max_staleness": 0,
    },
    "learner": {"gpus_per_rank": 1, "batch_size": 8, "gradient_checkpointing": False},
}  # fmt: skip


def config(recipe, **changes):
    return load_recipe(recipe, {**GPUS, **changes})


@pytest.mark.parametrize(
    ("recipe", "changes", "operations"),
    [
        ("sft", {}, 2 + 4),  # a token's passes, in operations for each weight: forward, backward
        ("sdft", {}, 2 + 4 + 2),  # and the teacher's view
        ("unisd_star", {}, 2 + 4 + 2 * 5),  # primary, 3 auxiliary views, the negative one
        ("sdft", {"learner": {**GPUS["learner"], "gradient_checkpointing": True}}, 2 + 4 + 2 + 2),
        ("sdft", {"model": {"dtype": "bfloat16", "lora": {"rank": 8}}}, 2 + 2 + 2),
    ],
)
def test_the_learner_computes_every_pass_over_8_completions_of_100_tokens(recipe, changes, operations):
    seconds = step_seconds(config(recipe, **changes), FULL).learner
    assert seconds == pytest.approx(operations * 1_000_000 * 8 * 100 / (0.4 * GPU_FLOPS))


def test_two_ranks_take_half_the_time():
    halved = config("sdft", learner={**GPUS["learner"], "ranks": 2})
    assert step_seconds(halved, FULL).learner == pytest.approx(step_seconds(config("sdft"), FULL).learner / 2)


def test_generation_reads_the_weights_for_each_token_of_each_round_of_answers():
    seconds = step_seconds(config("sdft"), FULL).generation
    assert seconds == pytest.approx(2 * 40 * 1_000_000 * 2 / GPU_BYTES), "8 answers, 5 at a time: 2 rounds of 40 tokens"
    assert step_seconds(config("sft"), FULL).generation == 0.0, "it trains on the demonstrations"


def test_on_policy_the_two_wait_for_one_another_and_else_the_longer_one_counts():
    step = step_seconds(config("sdft"), FULL)
    assert step.together == step.learner + step.generation
    stale = step_seconds(config("sdft", rollout={**GPUS["rollout"], "max_staleness": 1}), FULL)
    assert stale.together == max(step.learner, step.generation)


def test_the_line_says_that_it_is_an_estimate_and_there_is_none_on_cpus():
    (line,) = describe_duration(config("sdft"), FULL)
    step = step_seconds(config("sdft"), FULL).together
    assert line.startswith(f"time, estimated and not measured: at most {step:.2g} s a step (learner ")
    assert f"{100 * step / 3600:.2g} hours for 100 steps" in line
    (line,) = describe_duration(config("sdft", run={"epochs": 1, "steps": None}), FULL)
    assert "hours" not in line, "the problems are not counted"
    assert list(describe_duration(load_recipe("sdft"), FULL)) == []

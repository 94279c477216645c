"""Which configurations can take turns on the same cores."""

import pytest

from unisd_rl.config.load import load_recipe, overlay
from unisd_rl.errors import UserError

TURNS = {"run": {"placement": "colocated"}}
GPUS = {"rollout": {"gpus_per_actor": 1.0}, "learner": {"gpus_per_rank": 1.0}}


def half(changes=None):
    """Each side has half a GPU."""
    return overlay({"rollout": {"gpus_per_actor": 0.5}, "learner": {"gpus_per_rank": 0.5}}, changes or {})


@pytest.mark.parametrize("staleness", [0, 1])
@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_one_actor_may_take_turns_with_a_learner_of_several_ranks(staleness, engine):
    rollout = {"max_staleness": staleness, "engine": {"type": engine}}
    config = load_recipe("unisd_star", {**TURNS, "rollout": rollout, "learner": {"ranks": 2}})
    assert config.run.colocated
    assert config.may_be_colocated


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rollout": {"actors": 2}}, "rollout.actors = 2, and in its turn one has all cores: set it to 1"),
        ({"rollout": {"actors": {"max": 3}}}, "rollout.actors.max = 3 asks for more actors while the learner waits"),
        ({**GPUS, "weights": {"transport": "nccl"}}, 'weights.transport = "nccl" sends between GPUs that are apart'),
        (
            {**GPUS, "weights": {"transport": "ipc"}},
            "rollout.gpus_per_actor = 1 and learner.gpus_per_rank = 1, and turns are taken on CPUs or on one GPU",
        ),
        ({"rollout": {"gpus_per_actor": 0.5}}, "rollout.gpus_per_actor = 0.5 and learner.gpus_per_rank = 0, and turns"),
        ({"learner": {"gpus_per_rank": 0.5}}, "rollout.gpus_per_actor = 0 and learner.gpus_per_rank = 0.5, and turns"),
        (half({"rollout": {"gpus_per_actor": 0.6}}), "rollout.gpus_per_actor = 0.6 and learner.gpus_per_rank = 0.5"),
        (
            half({"rollout": {"engine": {"type": "transformers"}}}),
            'rollout.engine.type = "transformers" gives no memory of a GPU back between turns: set it to "vllm"',
        ),
        (half({"learner": {"ranks": 2}}), "learner.ranks = 2, and turns on a GPU are taken with one rank: set it to 1"),
        (
            half({"rollout": {"engine": {"tensor_parallel": 2}}}),
            "rollout.engine.tensor_parallel = 2, and turns are taken on one GPU: set it to 1",
        ),
        ({"rollout": {"max_staleness": 2}}, "rollout.max_staleness = 2 lets rollouts run ahead of a learner at work"),
    ],
    ids=[
        "several_actors",
        "actors_max",
        "nccl",
        "gpus",
        "engine_on_gpu",
        "learner_on_gpu",
        "more_than_a_gpu",
        "transformers",
        "ranks",
        "tensor_parallel",
        "staleness",
    ],
)
def test_what_cannot_take_turns_is_refused_in_one_sentence_and_runs_apart(changes, said):
    apart = load_recipe("unisd_star", changes)
    assert not apart.may_be_colocated
    with pytest.raises(UserError) as refused:
        load_recipe("unisd_star", {**changes, **TURNS})
    sentence = str(refused.value)
    assert sentence.startswith(f'run.placement = "colocated": {said}')
    assert sentence.endswith('; or set run.placement to "apart"')
    assert "\n" not in sentence


ALONE = {"run": {"placement": "in_process"}, "rollout": {"engine": {"type": "transformers"}}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"rollout": {"engine": {"type": "vllm"}}},
            'rollout.engine.type = "vllm" computes in processes of its own: set',
        ),
        ({"learner": {"ranks": 2}}, "learner.ranks = 2, and each rank is a process: set it to 1"),
        ({"rollout": {"actors": 2}}, "rollout.actors = 2, and in its turn one has all cores: set it to 1"),
        ({"rollout": {"actors": {"max": 3}}}, "rollout.actors.max = 3 asks for more actors"),
        (GPUS, "rollout.gpus_per_actor = 1 and learner.gpus_per_rank = 1, and one process computes on the CPU"),
        ({"rollout": {"max_staleness": 2}}, "rollout.max_staleness = 2 lets rollouts run ahead"),
    ],
    ids=["vllm", "ranks", "several_actors", "actors_max", "gpus", "staleness"],
)
def test_what_cannot_be_in_one_process_is_refused_in_one_sentence(changes, said):
    with pytest.raises(UserError) as refused:
        load_recipe("unisd_star", overlay(ALONE, changes))
    sentence = str(refused.value)
    assert sentence.startswith(f'run.placement = "in_process": {said}')
    assert sentence.endswith('; or set run.placement to "apart"')
    assert "\n" not in sentence


@pytest.mark.parametrize("row", ["unisd_star", "sft", "ssd", "released_code_parity"])
def test_the_set_up_in_process_puts_any_row_into_one_process_where_the_sides_take_turns(row):
    config = load_recipe([row, "in_process"], {"model": {"lora": None}})
    assert config.run.in_process
    assert config.run.colocated


@pytest.mark.parametrize("row", ["unisd_star", "sft", "ssd", "released_code_parity"])
def test_the_set_up_colocated_lets_any_row_take_turns_with_all_answers_of_a_step_in_flight(row):
    config = load_recipe([row, "colocated"])
    assert config.run.placement == "colocated"
    assert config.rollout.concurrency >= config.learner.batch_size


def test_the_sides_are_apart_unless_they_are_told_otherwise():
    config = load_recipe("unisd_star")
    assert not config.run.colocated
    assert config.may_be_colocated


@pytest.mark.parametrize("transport", ["object_store", "ipc"])
def test_a_rank_and_an_actor_with_a_share_of_a_gpu_each_take_turns_on_it(transport):
    shared = half({"weights": {"transport": transport}})
    config = load_recipe(["unisd_star", "colocated"], shared)
    assert (config.run.colocated, config.turns_on_gpu) == (True, True)
    apart = load_recipe("unisd_star", shared)
    assert (apart.may_be_colocated, apart.turns_on_gpu) == (True, False)
    assert not load_recipe("unisd_star", TURNS).turns_on_gpu

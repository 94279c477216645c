"""Which configurations can take turns on the same cores."""

import pytest

from unisd_rl.config.load import load_recipe, overlay
from unisd_rl.errors import UserError

TURNS = {"run": {"placement": "colocated"}}
GPUS = {"rollout": {"gpus_per_actor": 1.0}, "learner": {"gpus_per_rank": 1.0}}


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
            "rollout.gpus_per_actor = 1 and learner.gpus_per_rank = 1, and turns are taken on CPUs",
        ),
        ({"rollout": {"max_staleness": 2}}, "rollout.max_staleness = 2 lets rollouts run ahead of a learner at work"),
    ],
    ids=["several_actors", "actors_max", "nccl", "gpus", "staleness"],
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
        (GPUS, "rollout.gpus_per_actor = 1 and learner.gpus_per_rank = 1, and turns are taken on CPUs only"),
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

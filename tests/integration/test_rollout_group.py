"""Rollout actors in real Ray processes with the queue and the store: the path from prompt to batch.

The transformers engine stands in (seconds to start); test_engine.py shows that both engines do the same.
"""

import numpy as np
import pytest
import ray

from actors.engines.engine import NO_WEIGHTS
from actors.group import RolloutGroup
from actors.rollout_actor import ActorSpec
from tests.fakes.adapters import LORA, random_factors, with_factors
from tests.fakes.engine_scenarios import gap
from tests.fakes.rollout_rig import BATCH, PLAN, WAIT_S, Parts, config, numbered
from unisd_rl.errors import RunFailed, UserError
from unisd_rl.transport.rollouts.driver_client import spawn_queue
from unisd_rl.transport.rollouts.schema import decode
from unisd_rl.transport.weights.object_store import ObjectStorePublisher
from unisd_rl.transport.weights.store import spawn_store
from unisd_rl.types import Generation, Message, PolicyVersion, Sampling, ViewKind

STEPS = 3


def group_of(settings, *parts):
    return RolloutGroup(ActorSpec(settings, *parts), PLAN)


@pytest.fixture(scope="module")
def served(cluster, tied_model_path, tmp_path_factory):
    """One actor at version 0 whose queue is empty, for tests that leave it as it was."""
    made = Parts(config(), tied_model_path, tmp_path_factory.mktemp("served"))
    made.group.wait_for(made.publish(0), WAIT_S)
    yield made
    made.group.close()


@pytest.fixture(scope="module")
def two_actors(cluster, tied_model_path, tmp_path_factory):
    """Two actors, which tests leave at the version of the step that comes next."""
    made = Parts(config(actors=2), tied_model_path, tmp_path_factory.mktemp("two"))
    yield made
    made.group.close()


def test_prompts_become_batches_in_order_with_the_log_probs_of_their_versions(two_actors):
    parts = two_actors
    parts.publish(0)
    parts.queue.admit(tuple(numbered(number) for number in range(BATCH * STEPS)))
    parts.group.run()
    for step in range(STEPS):
        batch = parts.queue.take(step, 1, WAIT_S, parts.group.check)
        rollouts = decode(ray.get(batch.shards[0]))
        parts.publish(step + 1)
        assert [rollout.number for rollout in rollouts] == list(range(step * BATCH, (step + 1) * BATCH))
        for rollout in rollouts:
            assert rollout.id == f"id-{rollout.number}"
            assert bytes(rollout.prompt_tokens[rollout.prompt_tokens < 256].astype(np.uint8))
            assert [view.kind for view in rollout.views] == [ViewKind.PRIMARY]
            assert (np.diff(rollout.versions) >= 0).all()
            assert step - rollout.versions.min() <= 1
            for number in set(rollout.versions.tolist()):
                assert (
                    gap(parts.models[number], rollout.prompt_tokens, as_generation(rollout), rollout.versions == number)
                    < 1e-4
                )
    parts.group.check()
    reports = parts.group.reports()
    assert sum(report.rollouts for report in reports) == BATCH * STEPS
    assert all(len(report.pauses_ms) >= 1 for report in reports)


def as_generation(rollout):
    return Generation(
        rollout.completion_tokens, rollout.logprobs, rollout.lineages, rollout.versions, rollout.finish_reason
    )


def test_an_evaluation_is_of_one_version_in_order_and_beside_the_queue(two_actors):
    parts = two_actors
    first = PolicyVersion(0, max(parts.models)) if parts.models else parts.publish(0)
    step, answered = first.number, sum(report.answered for report in parts.group.reports())
    parts.queue.admit(tuple(numbered(number) for number in range(step * BATCH, (step + 1) * BATCH)))
    parts.group.run()
    asked = [(Message("user", f"question {number}"),) for number in range(9)]
    greedy = Sampling(0.0, 1.0, 12)
    parts.group.wait_for(first, WAIT_S)
    answers = parts.group.answers(asked, greedy, first)
    alone = [parts.group.answers([chat], greedy, first)[0] for chat in asked[:3]]
    assert [one.text for one in answers[:3]] == [one.text for one in alone]
    assert len({one.text for one in answers}) > 1
    assert all((one.generation.versions == step).all() for one in answers)
    sampled = parts.group.answers(asked[:2], Sampling(0.7, 1.0, 12, seed=3), first)
    assert all(gap(parts.models[step], one.prompt_tokens, one.generation) < 1e-4 for one in sampled)
    drawn = parts.group.answers(asked[:3], Sampling(0.7, 1.0, 12, seed=3), first)
    again = [parts.group.answers([chat], Sampling(0.7, 1.0, 12, seed=3 + i), first) for i, chat in enumerate(asked[:3])]
    assert [one.text for one in drawn] == [one.text for (one,) in again]  # whoever answers
    assert len(parts.queue.take(step, 1, WAIT_S, parts.group.check).numbers) == BATCH
    assert sum(report.answered for report in parts.group.reports()) - answered == 9 + 3 + 2 + 3 + 3


def test_answers_of_a_version_that_is_not_there_are_refused(served):
    with pytest.raises(RunFailed, match=r"rollout-0 was asked for answers of .*number=3"):
        served.group.answers([(Message("user", "?"),)], Sampling(0.0, 1.0, 4), PolicyVersion(0, 3))


def test_weights_that_never_come_are_told_with_the_version(served):
    with pytest.raises(RunFailed, match=r"waited 0\.5 s for rollout-0 to apply 0:4"):
        served.group.wait_for(PolicyVersion(0, 4), 0.5)


def test_actors_without_a_queue_answer_with_the_model_they_were_started_with(served, tied_model_path, tmp_path):
    alone = group_of(config(), tied_model_path, tmp_path, None, spawn_store())
    alone.start(WAIT_S)
    (answer,) = alone.answers([(Message("user", "question 1"),)], Sampling(0.7, 1.0, 12, seed=1), NO_WEIGHTS)
    assert gap(served.base, answer.prompt_tokens, answer.generation) < 1e-4
    alone.close()


def test_an_actor_that_starts_late_begins_with_the_newest_weights(served, tied_model_path, tmp_path):
    late = group_of(config(), tied_model_path, tmp_path, served.queue_handle, served.store)
    late.start(WAIT_S)
    assert late.reports()[0].version == PolicyVersion(0, 0)
    late.close()


def test_an_actor_that_starts_late_begins_with_the_newest_adapter(cluster, tied_model_path, tmp_path):
    settings, store = config(lora=LORA), spawn_store()
    publisher = ObjectStorePublisher(store.handle, bucket_mib=1)
    newest, factors = PolicyVersion(0, 5), random_factors(tied_model_path, seed=5)
    publisher.publish(PolicyVersion(0, 4), random_factors(tied_model_path, seed=4).items())
    publisher.publish(newest, factors.items())
    publisher.wait(WAIT_S)
    late = group_of(settings, tied_model_path, tmp_path, spawn_queue(tmp_path, settings), store)
    late.start(WAIT_S)
    asked = [(Message("user", f"question {number}"),) for number in range(3)]
    for one in late.answers(asked, Sampling(0.7, 1.0, 12, seed=3), newest):
        assert gap(with_factors(tied_model_path, factors), one.prompt_tokens, one.generation) < 1e-4
    late.close()


def test_what_the_cluster_lacks_is_named(cluster, tied_model_path, tmp_path):
    settings = config(resources={"pepper": 2.0})
    group = group_of(settings, tied_model_path, tmp_path, spawn_queue(tmp_path, settings), spawn_store())
    with pytest.raises(UserError, match=r"0 of 1 rollout actors .* 2 pepper, and the cluster has .* 0 pepper left"):
        group.start(WAIT_S)


def test_a_model_that_does_not_load_is_told_with_its_log(cluster, tied_model_path, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for file in tied_model_path.iterdir():
        if file.suffix != ".safetensors":
            (model / file.name).write_bytes(file.read_bytes())
    group = group_of(config(), model, tmp_path, spawn_queue(tmp_path, config()), spawn_store())
    with pytest.raises(RunFailed, match=r"rollout-0 stopped: transformers does not load .*rollout-0\.log"):
        group.start(WAIT_S)
    group.close()

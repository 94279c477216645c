"""The learner on real Ray: two sharded ranks in actors of their own, from a batch to a published version."""

import sys
import time

import numpy as np
import pytest
import ray
import torch

from learner.group import CheckpointNotWritten, LearnerGroup, LearnerLost
from tests.fakes.learner_rig import learner_config, make_model, make_rollouts
from unisd_rl.cluster.cores import CorePlan
from unisd_rl.errors import RunFailed, UserError
from unisd_rl.storage.checkpoints import RunState, open_verified
from unisd_rl.transport.rollouts.schema import encode
from unisd_rl.transport.weights.snapshot import unpack
from unisd_rl.transport.weights.store import spawn_store
from unisd_rl.transport.weights.transport import PublishTarget
from unisd_rl.types import PolicyVersion, ViewKind

TIMEOUT_S = 200.0
ROLLOUTS = make_rollouts()
SHARDS = [encode(ROLLOUTS[:9]), encode(ROLLOUTS[9:])]


@pytest.fixture(scope="module")
def cluster():
    ray.init(address="local", include_dashboard=False, num_cpus=5, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("group")


@pytest.fixture(scope="module")
def model(folder):
    return make_model(folder / "model", tied=True)


def group_of(model, folder, **sections):
    learner = {"ranks": 2, "zero_stage": 3, **sections.pop("learner", {})}
    core, on_wait = (0,), sections.pop("on_wait", lambda: None)
    plan = CorePlan((core,), (core, core))
    return LearnerGroup(learner_config(learner=learner, **sections), plan, model, folder, on_wait)


@pytest.fixture(scope="module")
def group(cluster, model, folder):
    group = group_of(model, folder)
    group.start(TIMEOUT_S)
    yield group
    group.close()


@pytest.fixture(scope="module")
def trained(group):
    """The reports of two steps, and what was kept of the tokens of each: of the first all."""
    steps = []
    for version, sampled in enumerate((frozenset(range(100)), frozenset())):
        report = group.step([ray.put(shard) for shard in SHARDS], version, TIMEOUT_S, sampled=sampled)
        steps.append((report, group.token_samples()))
    return steps


@pytest.fixture(scope="module")
def reports(trained):
    return [report for report, _ in trained]


@pytest.fixture(scope="module")
def samples(trained):
    return [kept for _, kept in trained]


def expected_logprobs(model, rollout):
    ids = torch.tensor([*rollout.prompt_tokens, *rollout.completion_tokens], dtype=torch.long)
    with torch.no_grad():
        logprob = torch.log_softmax(model(ids[None]).logits[0] / 0.7, -1)
    targets = ids[len(rollout.prompt_tokens) :]
    return logprob[len(rollout.prompt_tokens) - 1 : -1].gather(-1, targets[:, None])[:, 0].numpy()


def test_a_step_reports_on_the_shares_of_all_ranks(reports):
    assert [report.step for report in reports] == [0, 1]
    assert reports[0].counts.tokens == sum(len(rollout.completion_tokens) for rollout in ROLLOUTS)
    assert reports[0].counts.sequences == 11
    assert reports[0].policy.staleness_max == 1
    assert reports[1].policy.staleness_mean == 2
    assert np.isnan(reports[0].mismatch.logprob_mismatch_rms)
    assert 0 < reports[0].teacher.teacher_update_norm < reports[0].teacher.teacher_student_distance
    assert reports[1].loss.loss < reports[0].loss.loss


def test_what_is_kept_of_all_tokens_is_what_the_metrics_are_of_and_of_both_ranks(reports, samples):
    kept, afterwards = samples
    assert afterwards == [], "of the last step alone, of which nothing was asked for"
    lengths = {rollout.number: len(rollout.completion_tokens) for rollout in ROLLOUTS if len(rollout.completion_tokens)}
    assert {sample.number: sample.length for sample in kept} == lengths
    assert [sample.number for sample in kept] == sorted(lengths)
    joined = {name: np.concatenate([sample.values[name] for sample in kept]) for name in kept[0].values}
    assert joined["divergence"].mean() == pytest.approx(reports[0].loss.divergence, rel=1e-5)
    assert joined["weight"].mean() == pytest.approx(reports[0].weights.weight_mean, rel=1e-5)
    assert (joined["entropy"] > 0).all()
    without = [number for number, one in enumerate(ROLLOUTS) if not one.views_of(ViewKind.NEGATIVE)]
    for sample in kept:
        assert np.isnan(sample.values["contrast"]).all() == (sample.number in without)


def test_what_is_published_saved_and_scored_are_the_same_weights(group, reports, folder):
    from transformers import AutoModelForCausalLM

    store, version = spawn_store(), PolicyVersion(0, 2)
    group.publish(version, PublishTarget(store.handle, ()))
    group.save(folder / "checkpoint")
    saved = AutoModelForCausalLM.from_pretrained(folder / "checkpoint")
    snapshot = ray.get(store.handle.at_least.remote(version, TIMEOUT_S), timeout=TIMEOUT_S)
    weights = dict(unpack(snapshot.manifest.buckets, ray.get(list(snapshot.buckets), timeout=TIMEOUT_S)))
    assert snapshot.version == version
    assert snapshot.manifest.nbytes == sum(tensor.nbytes for tensor in weights.values())
    assert "lm_head.weight" not in weights
    assert all(torch.equal(weights[name], tensor) for name, tensor in saved.named_parameters())
    found = group.logprobs(ROLLOUTS[0].prompt_tokens, ROLLOUTS[0].completion_tokens)
    assert found.dtype == np.float32
    assert np.abs(found - expected_logprobs(saved, ROLLOUTS[0])).max() < 1e-5


def test_a_rank_has_imported_nothing_for_which_it_has_no_use(group, reports):
    """Other libraries import these wherever they are installed (unisd_rl/imports.py)."""
    (_, rank) = group.ranks
    libraries = ("bitsandbytes", "mlflow", "vllm")
    imported = rank.__ray_call__.remote(lambda _: [name for name in libraries if name in sys.modules])
    assert ray.get(imported, timeout=TIMEOUT_S) == []


def test_what_the_ranks_print_goes_to_their_files(group, folder):
    assert {path.name for path in (folder / "logs").iterdir()} >= {"learner-0.log", "learner-1.log"}
    assert "Loading weights" in (folder / "logs" / "learner-1.log").read_text()


def test_a_check_that_fires_ends_the_step_with_its_own_sentence(group, reports):
    own = [rollout_with_versions(rollout, 2) for rollout in ROLLOUTS]
    with pytest.raises(RunFailed, match=r"^engine and learner differ by .* the engine says -1, the learner"):
        group.step([encode(own[:9]), encode(own[9:])], 2, TIMEOUT_S)


def rollout_with_versions(rollout, version):
    from dataclasses import replace

    return replace(rollout, versions=np.full(len(rollout.completion_tokens), version, np.int32))


@pytest.fixture(scope="module")
def looks():
    """One item for each time that others were looked after."""
    return []


@pytest.fixture(scope="module")
def single(cluster, model, tmp_path_factory, looks):
    """A group of one rank, which tests leave as it is: started, or lost."""
    one = {"ranks": 1, "zero_stage": 0}
    group = group_of(model, tmp_path_factory.mktemp("single"), learner=one, on_wait=lambda: looks.append(1))
    group.start(TIMEOUT_S)
    yield group
    group.close()


def test_after_a_rank_died_in_mid_run_all_start_again_from_a_checkpoint(single, tmp_path):
    whole = [encode(ROLLOUTS)]
    single.step(whole, 0, TIMEOUT_S)
    checkpoint = tmp_path / "checkpoints" / "step-1"
    single.save(checkpoint, RunState(0, 1, 11, ()))
    assert open_verified(checkpoint).state.version == 1
    before = single.step(whole, 1, TIMEOUT_S)
    (rank,) = single.ranks
    ray.kill(rank)
    with pytest.raises(
        LearnerLost, match=r"^a learner rank could not train step 2: its process died: .*; see .*logs/learner-\*\.log$"
    ):
        single.step(whole, 2, TIMEOUT_S)
    single.close()
    single.start(TIMEOUT_S, checkpoint, version=1)
    again = single.step(whole, 1, TIMEOUT_S, lineage=1, sampled=frozenset(range(100)))
    assert (again.loss, again.optimizer) == (before.loss, before.optimizer), "what is kept of tokens changes no step"


def test_others_are_looked_after_while_the_ranks_work_and_the_ranks_while_others_do(single, looks):
    assert len(looks) >= 2
    for _ in range(5):
        single.check()
        time.sleep(0.1)
    ray.kill(single.ranks[0])
    with pytest.raises(LearnerLost, match="a learner rank died while others were waited for"):
        look_until(single, time.monotonic() + TIMEOUT_S)


def look_until(group, end_s):
    while time.monotonic() < end_s:
        group.check()
        time.sleep(0.1)


def test_a_rank_whose_peer_died_says_that_the_learner_is_lost(cluster, model, tmp_path):
    group = group_of(model, tmp_path)
    group.start(TIMEOUT_S)
    first, second = group.ranks
    ray.kill(second)
    alone = first.step.remote(SHARDS[0], 0, 0)  # in its first collective, alone
    with pytest.raises(LearnerLost, match="learner rank 0 lost the others"):
        ray.get(alone, timeout=TIMEOUT_S)
    group.close()


def test_a_folder_that_cannot_be_written_costs_the_checkpoint_and_not_the_ranks(group, reports, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointNotWritten, match="step-2 could not be written"):
        group.save(tmp_path / "file" / "step-2", RunState(0, 2, 0, ()))
    first = ROLLOUTS[0]
    assert np.isfinite(group.logprobs(first.prompt_tokens, first.completion_tokens)).all()


def test_a_model_that_cannot_be_loaded_is_named(cluster, tmp_path):
    (tmp_path / "nowhere").mkdir()
    group = group_of(tmp_path / "nowhere", tmp_path, learner={"ranks": 1, "zero_stage": 0})
    with pytest.raises(UserError, match=r"transformers does not load model\.path = .*nowhere: "):
        group.start(TIMEOUT_S)
    group.close()


def test_a_node_that_does_not_see_the_model_is_named(cluster, tmp_path):
    group = group_of(tmp_path / "unseen", tmp_path, learner={"ranks": 1, "zero_stage": 0})
    with pytest.raises(UserError, match=r"^learner rank 0 on node .* does not see the model in .*unseen; put it, and"):
        group.start(TIMEOUT_S)
    group.close()


def test_a_node_that_does_not_see_the_runs_folder_is_named(cluster, model, tmp_path):
    group = group_of(model, tmp_path / "elsewhere", learner={"ranks": 1, "zero_stage": 0})
    with pytest.raises(
        UserError, match=r"rank 0 on node .* does not see .*elsewhere, .*; set run\.dir to a folder that"
    ):
        group.start(TIMEOUT_S)
    group.close()
    assert not (tmp_path / "elsewhere").exists()


def test_a_cluster_without_room_is_named_with_what_it_lacks(cluster, model, tmp_path):
    lacking = {"learner": {"ranks": 1, "resources": {"gold": 2.0}}, "run": {"cluster_timeout_s": 1.0}}
    group = group_of(model, tmp_path, **lacking)
    with pytest.raises(UserError, match=r"no room for 1 learner ranks of 1 CPU, 2 gold each; free now: .*0 gold"):
        group.start(TIMEOUT_S)
    group.close()

import numpy as np
import torch

from learner.checks import current_tokens, token_staleness
from unisd_rl.types import PolicyVersion, Rollout, Source

CPU = torch.device("cpu")


def rollout(source, logprobs, versions, length):
    completion = np.zeros(length, np.int32)
    versions = None if versions is None else np.array(versions, np.int32)
    lineages = None if versions is None else np.zeros_like(versions)
    logprobs = None if logprobs is None else np.array(logprobs, np.float32)
    return Rollout(
        0, "0", source, completion, (), completion, logprobs, lineages, versions, "stop", 0, "test", 0.0, 1.0
    )


STRADDLING = rollout(Source.POLICY, [-1.0, -2.0, -3.0], [4, 4, 5], 3)
GOLD = rollout(Source.GOLD, None, None, 2)


def test_staleness_is_counted_per_token_a_policy_sampled():
    assert token_staleness([STRADDLING, GOLD], 5, CPU).tolist() == [1.0, 1.0, 0.0]


def test_only_tokens_of_the_learners_own_version_are_its_own():
    engine_N, own_N = current_tokens([GOLD, STRADDLING], PolicyVersion(0, 5), CPU)
    assert own_N.tolist() == [False, False, False, False, True]
    assert engine_N[own_N].tolist() == [-3.0]


def test_a_version_of_the_same_number_in_another_lineage_is_another_policy():
    _, own_N = current_tokens([STRADDLING], PolicyVersion(1, 5), CPU)
    assert not own_N.any()

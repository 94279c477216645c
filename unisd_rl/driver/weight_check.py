"""Engine and learner must agree on the log-probs of the same tokens under the same version.

An engine that kept old weights anywhere (a packed head, a cached layer, stale keys and values) still writes
plausible text; only its numbers give it away. So the run asks for a few sampled answers right after an
update and scores them with the learner.
"""

import numpy as np

from actors.group import RolloutGroup
from learner.group import LearnerGroup
from unisd_rl.config import Config
from unisd_rl.contexts.prompts import PromptStream
from unisd_rl.errors import RunFailed
from unisd_rl.types import PolicyVersion, Sampling
from unisd_rl.watch import Watch

PROBES = 4


def check_weights(
    rollouts: RolloutGroup,
    learners: LearnerGroup,
    prompts: PromptStream,
    config: Config,
    version: PolicyVersion,
    watch: Watch,
) -> float:
    """The largest gap in nats over a few answers of `version`, begun after its update, sampled without truncation.
    `watch` is that of `RolloutGroup.wait_for`.

    Raises:
        RunFailed: the gap is over `learner.logprob_tolerance`.
    """
    rollouts.wait_for(version, config.weights.timeout_s, watch)
    sampling = Sampling(config.rollout.temperature, 1.0, config.rollout.max_completion_tokens, config.run.seed)
    questions = [prompts.prompt(number).prompt.messages for number in range(PROBES)]
    gap = 0.0
    for answer in rollouts.answers(questions, sampling, version, watch):
        learned = learners.logprobs(answer.prompt_tokens, answer.generation.tokens)
        gap = max(gap, float(np.abs(learned - answer.generation.logprobs).max()))
    if not gap <= config.logprob_tolerance:
        raise RunFailed(
            f"after the update to version {version.number} engine and learner differ by {gap:.4g} nats on the same "
            f"tokens (learner.logprob_tolerance = {config.logprob_tolerance:g}): the engine did not take over "
            "all weights"
        )
    return gap

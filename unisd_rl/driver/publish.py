"""A version from the learner to the rollout actors, and once more where the store lost it.

Engine and learner must agree on the log-probs of the same tokens under the same version.

An engine that kept old weights anywhere (a packed head, a cached layer, stale keys and values) still writes
plausible text; only its numbers give it away. So the run asks for a few sampled answers right after an
update and scores them with the learner.
"""

import time
from functools import partial

import numpy as np

from actors.group import RolloutGroup
from learner.group import LearnerGroup, LearnerLost
from unisd_rl.config import Config
from unisd_rl.contexts.prompts import PromptStream
from unisd_rl.driver.build import Parts
from unisd_rl.errors import RunFailed
from unisd_rl.transport.weights.transport import PublishTarget
from unisd_rl.types import OnWait, PolicyVersion, Recovery, Sampling

PROBES = 4


def check_weights(
    rollouts: RolloutGroup,
    learners: LearnerGroup,
    prompts: PromptStream,
    config: Config,
    version: PolicyVersion,
    on_wait: OnWait,
) -> float:
    """The largest gap in nats over a few answers of `version`, begun after its update, sampled without truncation.
    `on_wait` is that of `RolloutGroup.wait_for`.

    Raises:
        RunFailed: the gap is over `learner.logprob_tolerance`.
    """
    rollouts.wait_for(version, config.weights.timeout_s, on_wait)
    sampling = Sampling(config.rollout.temperature, 1.0, config.rollout.max_completion_tokens, config.run.seed)
    questions = [prompts.prompt(number).prompt.messages for number in range(PROBES)]
    gap = 0.0
    for answer in rollouts.answers(questions, sampling, version, on_wait):
        learned = learners.logprobs(answer.prompt_tokens, answer.generation.tokens)
        gap = max(gap, float(np.abs(learned - answer.generation.logprobs).max()))
    if not gap <= config.logprob_tolerance:
        raise RunFailed(
            f"after the update to version {version.number} engine and learner differ by {gap:.4g} nats on the same "
            f"tokens (learner.logprob_tolerance = {config.logprob_tolerance:g}): the engine did not take over "
            "all weights"
        )
    return gap


def publish(parts: Parts, version: PolicyVersion) -> None:
    """Snapshot of the student into the store (timed, synchronous); sending it on happens in the background."""
    if parts.store.version == version:
        return
    parts.learners.publish(version, PublishTarget(parts.store.handle, parts.rollouts.handles))
    parts.store.version = version
    parts.rollouts.broadcast(version)


def publish_checked(parts: Parts, version: PolicyVersion) -> None:
    """As `publish`; then every actor has it, and its log-probs are the learner's."""
    publish(parts, version)
    check_published(parts, version)


def check_published(parts: Parts, version: PolicyVersion) -> None:
    """Every actor has this version, the learner's, and its log-probs are the learner's: else RunFailed."""
    watch = partial(watch_source, parts, version)
    check_weights(parts.rollouts, parts.learners, parts.prompts, parts.config, version, watch)


def watch(parts: Parts, version: PolicyVersion) -> None:
    """Look after actors, learner and store while the learner, at `version`, has nothing to do: each second that a batch
    is waited for, and once a step. Raises what `watch_source` does."""
    parts.rollouts.check()
    watch_source(parts, version)


def watch_source(parts: Parts, version: PolicyVersion) -> None:
    """Look after those that weights come from while the learner, at `version`, has nothing to do: what is published and
    not yet with the actors may be lost with either.

    Raises:
        LearnerLost: it died; or the store lost the initial weights, which the learner has only when it starts.
    """
    parts.learners.check()
    if (fault := parts.store_watch.lost_contents()) is None:
        return
    started = time.monotonic()
    parts.report(fault)
    parts.store.version = None
    if parts.config.rollout.sources.base:
        raise LearnerLost("the weight store died, and the actors that sample with the initial weights start from it")
    publish(parts, version)
    parts.report(Recovery("store", time.monotonic() - started))

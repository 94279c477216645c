"""Publication: a version from the learner to the rollout actors, verified, and repeated where the store lost it.

Verified means that engine and learner agree on the log-probs of the same tokens under the same version. An engine that
kept old weights anywhere (a packed head, a cached layer, stale keys and values) still writes plausible text; only its
numbers give it away. So the run asks for a few sampled answers right after an update and scores them with the learner.
"""

import time
from functools import partial

import numpy as np

from learner.group import LearnerLost
from unisd_rl.driver.build import Run
from unisd_rl.errors import RunFailed
from unisd_rl.metrics import MismatchMetrics
from unisd_rl.transport.weights.transport import PublishTarget
from unisd_rl.types import Logprobs, PolicyVersion, Recovery, Sampling

PROBES = 4


def publish(run: Run, version: PolicyVersion) -> None:
    """Put a snapshot of the student into the store (timed, synchronous); the actors fetch it in the background."""
    if run.store.version == version:
        return
    run.learners.publish(version, PublishTarget(run.store.handle, run.rollouts.handles))
    run.store.version = version
    run.rollouts.broadcast(version)


def publish_and_verify(run: Run, version: PolicyVersion) -> None:
    """As `publish`; then `verify_published`."""
    publish(run, version)
    verify_published(run, version)


def verify_published(run: Run, version: PolicyVersion) -> None:
    """Wait until every actor has applied `version`, and compare log-probs of its answers with the learner's.

    The answers are begun after the update and sampled without truncation, so that their log-probs are comparable.

    Raises:
        RunFailed: they differ by more than `learner.logprob_tolerance` allows.
        LearnerLost: see `check_weight_sources`.
    """
    config, on_wait = run.config, partial(check_weight_sources, run, version)
    run.rollouts.wait_for(version, config.weights.timeout_s, on_wait)
    sampling = Sampling(config.rollout.temperature, 1.0, config.rollout.max_completion_tokens, config.run.seed)
    chats = [run.prompts.problem(place).messages for place in range(PROBES)]
    engine: list[Logprobs] = [np.empty(0, np.float32)]
    learner: list[Logprobs] = [np.empty(0, np.float32)]
    for answer in run.rollouts.answers(chats, sampling, version, on_wait):
        engine.append(answer.generation.logprobs)
        learner.append(run.learners.logprobs(answer.prompt_tokens, answer.generation.tokens))
    mismatch = MismatchMetrics.between(np.concatenate(engine), np.concatenate(learner))
    if mismatch.exceeds(config.logprob_tolerance):
        raise RunFailed(
            f"after the update to version {version.number} engine and learner differ by {mismatch.describe()} "
            f"(learner.logprob_tolerance = {config.logprob_tolerance:g}): the engine did not take over all weights"
        )


def check_health(run: Run, version: PolicyVersion) -> None:
    """Check actors, learner and store while the learner, at `version`, is idle: each second that a batch is waited for,
    and once a step. Raises as `check_weight_sources` does."""
    run.rollouts.check()
    run.console.observe_actors(run.rollouts.counts().states)
    check_weight_sources(run, version)


def check_weight_sources(run: Run, version: PolicyVersion) -> None:
    """Check learner and store while the learner, at `version`, is idle, and publish again what the store lost.

    Raises:
        LearnerLost: it died; or the store lost the initial weights, which the learner has only when it starts.
    """
    run.learners.check()
    if (failure := run.store_monitor.lost_contents()) is None:
        return
    started = time.monotonic()
    run.report(failure)
    run.store.version = None
    if run.config.rollout.sources.base:
        raise LearnerLost("the weight store died, and the actors that sample with the initial weights start from it")
    publish(run, version)
    run.report(Recovery("store", time.monotonic() - started))

"""A version from the learner to the rollout actors, and once more where the store lost it."""

import time
from functools import partial

from learner.group import LearnerLost
from unisd_rl.cluster.restarts import Recovery
from unisd_rl.driver.parts import Parts
from unisd_rl.driver.weight_check import check_weights
from unisd_rl.transport.weights.target import PublishTarget
from unisd_rl.types import PolicyVersion


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
    if (fault := parts.store_watch.emptied()) is None:
        return
    started = time.monotonic()
    parts.report(fault)
    parts.store.version = None
    if parts.config.rollout.sources.base:
        raise LearnerLost("the weight store died, and the actors that sample with the initial weights start from it")
    publish(parts, version)
    parts.report(Recovery("store", time.monotonic() - started))

"""The rule that bounds staleness by pacing instead of by throwing work away (decision 6).

The batch of step k is prompts k*B .. k*B+B-1, one completion each (of G answers to a problem there are
G, one after the other), and the learner that takes it has version k. A prompt may start on an actor only
while that actor's weights are at most `max_staleness` steps behind the step that will train on it.
Versions on an actor only rise, so the oldest token of a rollout is at least as new as the weights it
started on:

    version of any token >= applied version at its start >= floor(number / B) - max_staleness

That is the whole proof that staleness never exceeds `max_staleness`. And no deadlock: with
`publish_every <= max_staleness + 1` the newest published version p satisfies
p >= k - publish_every + 1 >= k - max_staleness, so the prompts of step k may always start once the
actors have applied p.

A staleness slot is freed where an actor has applied a newer version: `RolloutService.weights_changed` in
`actors.service` lets its lease call ask again with that version.

Only what the policy samples is bound by this. A gold completion needs no weights at all, and what the
initial model samples needs exactly those.

When the learner rolls back, versions start again from a checkpoint in a new lineage, and the version of an
actor falls with it: the proof holds within one lineage. So a policy prompt starts only on weights of the
learner's lineage, and an actor gives back what it has in flight before it applies weights of another one.
What was completed before that stays as fresh as it was. `too_stale` is asked when a rollout comes back:
after these rules it never is.
"""

from unisd_rl.types import INITIAL_VERSION, NumberedPrompt, PolicyVersion, Source


def step_of(number: int, batch_size: int) -> int:
    """The step that trains on this prompt number: floor(number / batch_size)."""
    return number // batch_size


def may_start(
    prompt: NumberedPrompt, applied: PolicyVersion, lineage: int, batch_size: int, max_staleness: int
) -> bool:
    """Whether `prompt` may start on an actor whose weights are of version `applied`; `lineage` is the learner's."""
    match prompt.source:
        case Source.POLICY:
            return applied.lineage == lineage and new_enough(prompt.number, applied.number, batch_size, max_staleness)
        case Source.GOLD:
            return True
        case Source.BASE:
            return applied == INITIAL_VERSION


def new_enough(number: int, applied_version: int, batch_size: int, max_staleness: int) -> bool:
    """Whether tokens of `applied_version` will not be too stale when prompt `number` is trained on."""
    return applied_version >= step_of(number, batch_size) - max_staleness


def too_stale(number: int, oldest_version: int, batch_size: int, max_staleness: int) -> bool:
    """Whether a rollout of prompt `number` with a token of `oldest_version` may not be trained on at its step."""
    return not new_enough(number, oldest_version, batch_size, max_staleness)


def staleness(step: int, oldest_version: int) -> int:
    """Optimiser steps between the oldest token's version and the learner's version at `step`."""
    return step - oldest_version

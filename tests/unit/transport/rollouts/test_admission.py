"""The pacing rule bounds staleness and never deadlocks: every interleaving of a small system is tried."""

from dataclasses import dataclass, replace
from itertools import product

import pytest

from tests.fakes.rollout_rows import numbered
from unisd_rl.transport.rollouts.admission import may_start, new_enough, staleness, step_of
from unisd_rl.types import PolicyVersion, Source


@dataclass(frozen=True)
class Setting:
    batch_size: int
    max_staleness: int
    publish_every: int
    actors: int
    steps: int


@dataclass(frozen=True)
class State:
    """One moment: the learner's version, the newest published one, each actor's, and every prompt's fate."""

    learner: int
    published: int
    applied: tuple[int, ...]
    in_flight: frozenset[tuple[int, int, int]]  # (actor, number, version of the oldest token)
    done: frozenset[tuple[int, int]]  # (number, version of the oldest token)

    @property
    def started(self) -> int:
        return self.learner_prompts + len(self.in_flight) + len(self.done)

    learner_prompts: int = 0  # prompts consumed so far


def successors(state: State, setting: Setting) -> list[State]:
    """Every single thing that can happen next: a start, a completion, an update, a step of the learner."""
    return [*starts(state, setting), *completions(state), *updates(state), *steps(state, setting)]


def starts(state, setting):
    number = state.started  # the lowest number that waits
    if number == setting.batch_size * setting.steps:
        return
    for actor, applied in enumerate(state.applied):
        if new_enough(number, applied, setting.batch_size, setting.max_staleness):
            yield replace(state, in_flight=state.in_flight | {(actor, number, applied)})


def completions(state):
    for row in state.in_flight:
        _, number, oldest = row
        yield replace(state, in_flight=state.in_flight - {row}, done=state.done | {(number, oldest)})


def updates(state):
    for actor, applied in enumerate(state.applied):
        if applied < state.published:
            newer = (*state.applied[:actor], state.published, *state.applied[actor + 1 :])
            yield replace(state, applied=newer)


def steps(state, setting):
    batch = {row for row in state.done if step_of(row[0], setting.batch_size) == state.learner}
    if len(batch) == setting.batch_size:
        assert all(staleness(state.learner, oldest) <= setting.max_staleness for _, oldest in batch)
        version = state.learner + 1
        published = version if version % setting.publish_every == 0 else state.published
        yield State(
            version,
            published,
            state.applied,
            state.in_flight,
            state.done - batch,
            state.learner_prompts + setting.batch_size,
        )


def explore(setting: Setting) -> tuple[set[State], list[State]]:
    """All reachable states, and those that are stuck before the last step."""
    start = State(0, 0, (0,) * setting.actors, frozenset(), frozenset())
    seen, frontier, stuck = {start}, [start], []
    while frontier:
        state = frontier.pop()
        following = successors(state, setting)
        if not following and state.learner < setting.steps:
            stuck.append(state)
        fresh = set(following) - seen
        seen |= fresh
        frontier += fresh
    return seen, stuck


ALLOWED = [
    Setting(batch_size, max_staleness, publish_every, actors, steps)
    for (batch_size, actors, steps), max_staleness in product([(1, 2, 4), (2, 1, 3), (2, 2, 2)], range(3))
    for publish_every in range(1, max_staleness + 2)
]


@pytest.mark.parametrize("setting", ALLOWED, ids=str)
def test_staleness_is_bounded_and_nothing_deadlocks_in_every_interleaving(setting):
    seen, stuck = explore(setting)  # the bound is asserted in every step of every interleaving
    assert stuck == []
    assert any(state.learner == setting.steps for state in seen)


@pytest.mark.parametrize("setting", ALLOWED, ids=str)
def test_at_most_the_allowed_batches_are_ahead_of_the_learner(setting):
    seen, _ = explore(setting)
    ahead = max(state.started - state.learner_prompts for state in seen)
    assert ahead <= (setting.max_staleness + 1) * setting.batch_size


def test_the_bound_is_reached_so_no_pacing_is_wasted():
    setting = Setting(batch_size=1, max_staleness=2, publish_every=1, actors=1, steps=4)
    seen, _ = explore(setting)
    assert max(staleness(number, oldest) for state in seen for number, oldest in state.done) == 2


@pytest.mark.parametrize("max_staleness", [0, 1, 2])
def test_publishing_more_rarely_than_the_configuration_allows_would_deadlock(max_staleness):
    setting = Setting(1, max_staleness, publish_every=max_staleness + 2, actors=1, steps=max_staleness + 3)
    _, stuck = explore(setting)
    assert stuck != []


def test_admission_by_written_arithmetic():
    assert [step_of(number, 4) for number in (0, 3, 4, 11)] == [0, 0, 1, 2]
    assert new_enough(number=7, applied_version=0, batch_size=4, max_staleness=1)
    assert not new_enough(number=8, applied_version=0, batch_size=4, max_staleness=1)
    assert new_enough(number=8, applied_version=1, batch_size=4, max_staleness=1)
    assert staleness(step=5, oldest_version=3) == 2


@pytest.mark.parametrize(
    "applied", [PolicyVersion(0, 0), PolicyVersion(0, 1), PolicyVersion(0, 9), PolicyVersion(1, 0), PolicyVersion(1, 9)]
)
def test_only_what_the_policy_samples_is_bound_by_staleness(applied):
    """Prompt 11 of batches of 4 is of step 2: at most 1 step stale means version 1 or later."""
    starts = {source: may_start(numbered(11, source), applied, 0, 4, 1) for source in Source}
    assert starts == {
        Source.POLICY: applied.lineage == 0 and applied.number >= 1,
        Source.GOLD: True,
        Source.BASE: applied == PolicyVersion(0, 0),  # exactly the initial model
    }

"""The model of admission, leases, publication and rollback, on the real queue, with a crash possible at every step.

Hypothesis plays `queue_world.World`: actors die before and after a commit, hang, come late and send doubles; leases
expire; the queue is opened again from its files; the learner rolls back to a checkpoint, also to the one before, also
while it waits for a batch; the driver starts again with everything new; the disk is full; prompts fail until they are
quarantined; writing is slow and everything else comes in between; actors come and go. Publication is every 1 to 4 steps
at any staleness that allows it, a prompt has one to four answers, and units have one or several prompts.

After each step: staleness is bounded, the steps that count have consumed 0, 1, 2, ... each once and in order, versions
rise by one within a lineage, nothing stored is generated again, nothing acknowledged is gone. At the end of each run
the faults stop, and the last step is reached within a bounded number of rounds: there is no deadlock.

The model can fail: `test_a_broken_rule_is_caught` breaks the rules of `BREACHES` one at a time and sees each one found,
by the search or, where that would take minutes, on a few moves that go straight there.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.fakes.queue_world import LEASE_S, Setting, World
from unisd_rl.transport.rollouts import admission
from unisd_rl.transport.rollouts.consumption import Consumption
from unisd_rl.transport.rollouts.dispatch import Dispatcher, LeaseRequest
from unisd_rl.transport.rollouts.history import LineageLog
from unisd_rl.transport.rollouts.leases import LeaseBook
from unisd_rl.transport.rollouts.ledger import Ledger
from unisd_rl.transport.rollouts.number_set import NumberSet
from unisd_rl.transport.rollouts.queue import RolloutQueue
from unisd_rl.types import PolicyVersion

pytestmark = pytest.mark.usefixtures("files_of_lines_roll_over")

ANY = st.integers(0, 99)  # which of those that are there, counted round


@st.composite
def some_setting(draw):
    answers = draw(st.sampled_from([1, 1, 4]))
    unit = answers * draw(st.sampled_from([1, 1, 2, 3] if answers == 1 else [1, 1, 2]))
    batch_size = unit * draw(st.integers(1, 2))
    every = draw(st.integers(1, 4))
    steps = draw(st.integers(2, 6))
    staleness, attempts = every - 1 + draw(st.integers(0, 1)), draw(st.integers(1, 2))
    return Setting(batch_size, staleness, every, unit, steps, attempts, answers)


class Model(RuleBasedStateMachine):
    @initialize(setting=some_setting())
    def begin(self, setting):
        self.world = World(setting)

    def actor(self, which):
        actors = self.world.actors
        return actors[which % len(actors)]

    def flying(self, which):
        """One of the actors with prompts in flight."""
        actors = [actor for actor in self.world.actors if actor.flying]
        return actors[which % len(actors)]

    @rule()
    def driver_admits(self):
        self.world.admit()

    @rule(which=ANY, wanted=st.integers(1, 6), admitting=st.booleans())
    def actor_leases(self, which, wanted, admitting):
        if admitting:
            self.world.admit()
        self.world.lease(self.actor(which), wanted)

    @precondition(lambda self: any(actor.flying for actor in self.world.actors))
    @rule(
        which=ANY,
        count=st.integers(1, 6),
        fate=st.sampled_from(["heard", "heard", "slow", "unheard", "disk full"]),
        wanted=st.integers(0, 4),
    )
    def actor_commits_and_leases(self, which, count, fate, wanted):
        actor = self.flying(which)
        units = list(actor.flying)
        some = [units[(which + index) % len(units)] for index in range(min(count, len(units)))]
        self.world.commit(actor, some, fate, wanted)

    @rule()
    def slow_writes_end(self):
        self.world.write_out()

    @precondition(lambda self: any(actor.flying for actor in self.world.actors))
    @rule(which=ANY)
    def prompt_fails(self, which):
        actor = self.flying(which)
        self.world.fail(actor, actor.numbers[which % len(actor.numbers)])

    @rule(which=ANY)
    def actor_renews(self, which):
        self.world.renew(self.actor(which))

    @rule(which=ANY)
    def actor_applies_what_was_published(self, which):
        self.world.update(self.actor(which))

    @rule(which=ANY)
    def actor_is_retired(self, which):
        self.world.retire(self.actor(which))

    @precondition(lambda self: len(self.world.actors) > 1)
    @rule(which=ANY)
    def actor_dies(self, which):
        self.world.dies(self.actor(which))

    @precondition(lambda self: len(self.world.actors) < 4)
    @rule()
    def actor_joins(self):
        self.world.join()

    @rule(seconds=st.sampled_from([1.0, 6.0, LEASE_S]))
    def time_passes(self, seconds):
        self.world.time_passes(seconds)

    @precondition(lambda self: self.world.asks_for_a_batch)
    @rule(unheard=st.booleans())
    def learner_takes(self, unheard):
        if unheard:
            self.world.take_unheard()
        else:
            self.world.take()

    @precondition(lambda self: self.world.asks_for_a_batch)
    @rule()
    def learner_waits(self):
        self.world.wait_for_batch()

    @precondition(lambda self: self.world.holding)
    @rule()
    def learner_trains(self):
        self.world.train()

    @precondition(lambda self: not self.world.holding)
    @rule()
    def learner_saves(self):
        self.world.save()

    @rule(damaged=st.booleans())
    def learner_dies(self, damaged):
        self.world.learner_dies(damaged)

    @rule()
    def queue_dies(self):
        self.world.queue_dies()

    @rule(damaged=st.booleans())
    def driver_dies(self, damaged):
        self.world.driver_dies(damaged)

    @rule()
    def all_goes_well_for_a_while(self):
        if self.world.step < self.world.setting.steps and not self.world.holding:
            self.world.round()

    @invariant()
    def everything_holds(self):
        self.world.check()

    def teardown(self):
        if hasattr(self, "world"):
            try:
                if sys.exc_info()[0] is None:
                    self.world.finish()
            finally:
                self.world.close()


Model.TestCase.settings = settings(stateful_step_count=30)
TestModel = Model.TestCase


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_model_holds_in_many_runs():
    run_state_machine_as_test(Model, settings=settings(max_examples=1000, stateful_step_count=50, deadline=None))


class Rare(Model):
    """Publication is one step rarer than the configuration allows."""

    @initialize(setting=some_setting())
    def begin(self, setting):
        self.world = World(replace(setting, publish_every=setting.max_staleness + 2))


def caught(machine):
    """What the first failing run says."""
    quick = settings(
        max_examples=1000,
        stateful_step_count=30,
        deadline=None,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises(AssertionError) as found:
        run_state_machine_as_test(machine, settings=quick)
    return str(found.value)


def test_publishing_more_rarely_than_the_configuration_allows_is_caught():
    assert "deadlock" in caught(Rare)


def one_step_more(whole, *arguments):
    return whole(*arguments[:-1], arguments[-1] + 1)


def any_lineage(whole, prompt, applied, lineage, *bounds):
    return whole(prompt, applied, applied.lineage, *bounds)


def nothing_happens(whole, *arguments):
    return None


async def nothing_happens_later(whole, *arguments):
    return None


def on_weights_of_the_future(whole, dispatcher, actor, request):
    return whole(dispatcher, actor, LeaseRequest(PolicyVersion(request.applied.lineage, 99), request.wanted))


def whoever_it_is(whole, dispatcher, actor, request):
    dispatcher.retired.clear()
    return whole(dispatcher, actor, request)


def nothing_is_known(whole, issuing, book, may_start, known):
    whole(issuing, book, may_start, NumberSet())


def settled_before_it_is_written(whole, queue, actor, data, table, numbers, stale):
    queue._mark_done(sorted(numbers))
    return whole(queue, actor, data, table, numbers, stale)


def only_the_first(whole, book, actor, wanted, may_start):
    return whole(book, actor, wanted, may_start)[:1]


def with_the_whole_unit(whole, issuing, numbers):
    whole(issuing, [other for number in numbers for other in issuing.book.numbers_of(issuing.book.unit_of(number))])


def every_time_anew(whole, consumption, step, facts):
    consumption._taken = None
    return whole(consumption, step, facts)


def not_recounted(whole, *arguments):
    whole(*arguments)
    return False


def not_written(whole, lineages, *arguments):
    lineages._file.append = lambda records: None
    return whole(lineages, *arguments)


@dataclass(frozen=True)
class Breach:
    """Rules broken as `(place, name, what happens instead)`, and what the model then says.

    `play` goes straight to where a rule matters that the search comes to only after minutes.
    """

    rules: tuple
    says: str
    play: Callable[[World], None] | None = None
    lease_unit: int = 1


def a_holder_dies(world):
    world.admit()
    world.lease(world.actors[0], 1)
    world.join()
    world.dies(world.actors[0])


def a_full_disk_and_a_death(world):
    world.admit()
    world.lease(world.actors[0], 1)
    world.commit(world.actors[0], [0], "disk full")
    world.join()
    world.dies(world.actors[0])


def a_failure_while_it_is_written(world):
    world.admit()
    world.lease(world.actors[0], 1)
    world.commit(world.actors[0], [0], "slow")
    world.fail(world.actors[0], 0)
    world.write_out()
    world.check()


def a_prompt_fails_too_often(world):
    world.admit()
    world.lease(world.actors[0], 1)
    world.fail(world.actors[0], 0)
    world.check()


def a_retired_actor_asks_again(world):
    world.admit()
    world.retire(world.actors[0])
    world.lease(world.actors[0], 1)


def three_steps(world):
    for _ in range(3):
        world.round()
    world.admit()
    world.update(world.actors[0])


def a_commit_asks_for_more(world):
    world.admit()
    world.lease(world.actors[0], 1)
    world.commit(world.actors[0], [0], "heard", wanted=99)


def a_retired_actor_commits_and_asks_for_more(world):
    world.admit()
    world.lease(world.actors[0], 1)
    flying = dict(world.actors[0].flying)
    world.retire(world.actors[0])
    world.actors[0].flying = flying
    world.commit(world.actors[0], [0], "heard", wanted=1)


def a_batch_is_asked_for_twice(world):
    world.admit()
    world.lease(world.actors[0], 1)
    world.commit(world.actors[0], [0], "heard")
    world.take_unheard()
    world.check()


def an_answer_is_lost(world):
    world.admit()
    world.lease(world.actors[0], 1)
    world.commit(world.actors[0], [0], "unheard")
    world.commit(world.actors[0], [0], "heard")
    world.check()


def a_learner_falls_back_while_it_waits(world):
    world.admit()
    world.lease(world.actors[0], 1)
    world.commit(world.actors[0], [0], "heard")
    world.take()
    world.train()
    world.wait_for_batch()
    world.learner_dies(damaged=False)
    world.admit()
    world.update(world.actors[0])
    world.lease(world.actors[0], 1)
    world.commit(world.actors[0], list(world.actors[0].flying), "heard")
    world.check()


def an_actor_asks_after_a_fall_back(world):
    three_steps(world)
    world.learner_dies(damaged=False)
    world.lease(world.actors[0], 1)


def generation_goes_on_over_a_fall_back(world):
    three_steps(world)
    world.lease(world.actors[0], 1)
    world.learner_dies(damaged=False)
    world.update(world.actors[0])
    world.commit(world.actors[0], list(world.actors[0].flying), "heard")
    world.check()


BREACHES = {
    "actors start one step too stale": Breach(((admission, "may_start", one_step_more),), "is too stale for prompt"),
    "nothing asks for staleness": Breach(((admission, "new_enough", one_step_more),), "is too stale for prompt"),
    "leases over a rollback": Breach(
        ((admission, "may_start", any_lineage),), "is of another lineage", an_actor_asks_after_a_fall_back
    ),
    "generation over a rollback": Breach(
        ((World, "abandon", nothing_happens),), "too_stale=1", generation_goes_on_over_a_fall_back
    ),
    "a learner that rolled back is answered": Breach(
        ((LineageLog, "require", nothing_happens),), "was answered|rise by one", a_learner_falls_back_while_it_waits
    ),
    "a commit leases what may not start": Breach(
        ((Dispatcher, "lease_now", on_weights_of_the_future),), "is too stale for prompt", a_commit_asks_for_more
    ),
    "a commit leases to a retired actor": Breach(
        ((Dispatcher, "lease_now", whoever_it_is),),
        "a retired actor was given",
        a_retired_actor_commits_and_asks_for_more,
    ),
    "retire is ignored": Breach(
        ((RolloutQueue, "retire", nothing_happens_later),), "a retired actor was given", a_retired_actor_asks_again
    ),
    "leases never expire": Breach(((LeaseBook, "expire", lambda whole, book: []),), "deadlock", a_holder_dies),
    "what is stored stays on offer": Breach(((LeaseBook, "end", nothing_happens),), "was given to .* again"),
    "settled prompts are admitted again": Breach(
        ((Dispatcher, "__init__", nothing_is_known),), "was given to .* again"
    ),
    "a lease ends before its rollout is on storage": Breach(
        ((RolloutQueue, "_store", settled_before_it_is_written),), "deadlock", a_full_disk_and_a_death
    ),
    "what is being written may be failed": Breach(
        ((LeaseBook, "begin_commit", nothing_happens), (LeaseBook, "end_commit", nothing_happens)),
        "quarantined and stored",
        a_failure_while_it_is_written,
    ),
    "a unit is torn apart": Breach(((LeaseBook, "grant", only_the_first),), "was given a part of unit"),
    "a quarantined prompt takes its unit with it": Breach(
        ((Dispatcher, "mark_done", with_the_whole_unit),), "deadlock", a_prompt_fails_too_often, lease_unit=2
    ),
    "a double is stored": Breach(((Ledger, "_is_new", lambda *arguments: True),), "stored twice", an_answer_is_lost),
    "a step asked for twice counts twice": Breach(
        ((Consumption, "record", every_time_anew),), "consumed", a_batch_is_asked_for_twice
    ),
    "a rollback is not counted": Breach(((LineageLog, "roll_back", not_recounted),), "reported"),
    "a rollback is forgotten": Breach(((LineageLog, "roll_back", not_written),), "forgotten|not on storage"),
    "a queue started again misses nothing": Breach(((Dispatcher, "not_admitted", lambda *arguments: []),), "deadlock"),
}


def test_what_the_breaches_are_played_on_holds_when_no_rule_is_broken():
    for breach in BREACHES.values():
        if breach.play is not None:
            played(breach)


@pytest.mark.parametrize("name", BREACHES)
def test_a_broken_rule_is_caught(monkeypatch, name):
    breach = BREACHES[name]
    for place, rule_name, instead in breach.rules:
        monkeypatch.setattr(place, rule_name, instead_of(getattr(place, rule_name), instead))
    if breach.play is None:
        assert re.search(breach.says, caught(Model))
    else:
        with pytest.raises(AssertionError, match=breach.says):
            played(breach)


def played(breach):
    unit = breach.lease_unit
    world = World(Setting(unit, max_staleness=1, publish_every=1, lease_unit=unit, steps=8, max_attempts=1))
    try:
        breach.play(world)
        world.finish()
    finally:
        world.close()


def instead_of(whole, instead):
    """A function, so that it binds as the rule it takes the place of."""
    return lambda *arguments, **named: instead(whole, *arguments, *named.values())

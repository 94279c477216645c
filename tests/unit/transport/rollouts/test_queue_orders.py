"""Whatever actors do, in whatever order: every admitted prompt is trained on exactly once and in order.

Hypothesis plays actors that lease, complete, fail, die, come late and send doubles, beside a learner
that takes batches and publishes. Some prompts have gold completions, which may start on any weights. A small model
of written sets says what the queue must report.
"""

import asyncio
import shutil
import tempfile
from itertools import takewhile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.fakes.rollout_rows import HandClock, numbered, rollout
from unisd_rl.config.rollout import RolloutConfig
from unisd_rl.storage.jsonl import read_json_lines
from unisd_rl.transport.rollouts.ledger import Ledger
from unisd_rl.transport.rollouts.queue import NotAdmitted, RolloutQueue
from unisd_rl.transport.rollouts.schema import decode, encode
from unisd_rl.types import PolicyVersion, Source

BATCH, MAX_STALENESS, MAX_ATTEMPTS, LEASE_S = 3, 1, 2, 10.0
ROLLOUT = RolloutConfig(max_staleness=MAX_STALENESS, lease_s=LEASE_S, max_attempts=MAX_ATTEMPTS)
pytestmark = pytest.mark.usefixtures("files_of_lines_roll_over")
ACTORS = st.sampled_from(["a", "b", "c"])


class Orders(RuleBasedStateMachine):
    """Attempts are (actor, number, version at start); a lost lease leaves its attempt there: it may come late."""

    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.clock = HandClock()
        self.queue = RolloutQueue(self.directory, BATCH, ROLLOUT, self.clock)
        self.applied = dict.fromkeys("abc", 0)
        self.attempts: list[tuple[str, int, int]] = []
        self.holder: dict[int, tuple[str, float]] = {}
        self.failures: dict[int, int] = {}
        self.stored: dict[int, str] = {}
        self.quarantined: set[int] = set()
        self.consumed: list[int] = []
        self.admitted = self.step = self.refused = 0
        self.sources: list[Source] = []

    def do(self, call):
        return self.runner.run(call)

    @rule(sources=st.lists(st.sampled_from([Source.POLICY, Source.GOLD]), min_size=1, max_size=5))
    def admit(self, sources):
        self.do(self.queue.admit([numbered(self.admitted + index, one) for index, one in enumerate(sources)]))
        self.sources += sources
        self.admitted += len(sources)

    @rule(actor=ACTORS, wanted=st.integers(1, 4))
    def lease(self, actor, wanted):
        self.forget_expired()
        version = self.applied[actor]
        free = [n for n in range(self.admitted) if not self.done(n) and n not in self.holder]
        allowed = list(takewhile(lambda number: self.may_start(number, version), free))[:wanted]
        prompts = self.do(self.queue.lease(actor, PolicyVersion(0, version), wanted, 0.0))
        assert [prompt.number for prompt in prompts] == allowed
        for number in allowed:
            self.holder[number] = (actor, self.clock.now_s + LEASE_S)
            self.attempts.append((actor, number, version))

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), again=st.booleans())
    def commit(self, data, again):
        """Some attempts of one actor complete, in any order, the late ones too; `again` keeps them for a double."""
        actor = data.draw(st.sampled_from(sorted({attempt[0] for attempt in self.attempts})))
        own = [attempt for attempt in self.attempts if attempt[0] == actor]
        chosen = data.draw(st.lists(st.sampled_from(own), min_size=1, max_size=4, unique=True))
        rows = [self.row(number, (version, self.applied[actor]), actor) for _, number, version in chosen]
        self.do(self.queue.commit(actor, encode(rows)))
        for attempt in chosen:
            self.store(attempt[1], actor)
            if not again:
                self.attempts.remove(attempt)

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def fail(self, data):
        actor, number, _ = attempt = data.draw(st.sampled_from(self.attempts))
        self.attempts.remove(attempt)
        self.do(self.queue.fail(actor, number, "said so"))
        if self.holder.get(number, ("", 0))[0] == actor:
            del self.holder[number]
            self.failures[number] = self.failures.get(number, 0) + 1
            if self.failures[number] == MAX_ATTEMPTS:
                self.quarantined.add(number)

    @rule(actor=ACTORS)
    def release(self, actor):
        self.do(self.queue.release(actor))
        self.holder = {number: held for number, held in self.holder.items() if held[0] != actor}

    @rule(actor=ACTORS)
    def renew(self, actor):
        self.forget_expired()
        self.do(self.queue.report())
        self.do(self.queue.lease(actor, PolicyVersion(0, -99), 0, 0.0))  # lets the queue see what expired
        self.do(self.queue.renew(actor, [number for number, (holder, _) in self.holder.items() if holder == actor]))
        for number, (holder, _) in self.holder.items():
            if holder == actor:
                self.holder[number] = (actor, self.clock.now_s + LEASE_S)

    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0]))
    def time_passes(self, seconds):
        self.clock.now_s += seconds
        self.forget_expired()
        self.do(self.queue.lease("z", PolicyVersion(0, -99), 0, 0.0))

    @rule(actor=ACTORS)
    def update(self, actor):
        self.applied[actor] = self.step

    @rule(shards=st.integers(1, 4))
    def take(self, shards):
        numbers = range(self.step * BATCH, (self.step + 1) * BATCH)
        if not all(self.done(number) for number in numbers):
            waits = all(number < self.admitted for number in numbers)
            with pytest.raises(TimeoutError if waits else NotAdmitted, match=f"step {self.step} "):
                self.do(self.queue.take(self.step, shards, 0.0))
            return
        taken = self.do(self.queue.take(self.step, shards, 0.0))
        expected = [number for number in numbers if number in self.stored]
        assert list(taken.numbers) == expected
        rows = [decode(shard) for shard in taken.shards]
        for shard, share in enumerate(rows):
            assert [row.number for row in share] == expected[shard::shards]
            assert [row.actor for row in share] == [self.stored[row.number] for row in share]
            assert [row.source for row in share] == [self.sources[row.number] for row in share]
        self.consumed += expected
        self.step += 1

    @invariant()
    def counts_are_those_of_the_model(self):
        report = self.do(self.queue.report())
        assert (report.admitted, report.committed, report.consumed, report.quarantined, report.refused) == (
            self.admitted,
            len(self.stored),
            len(self.consumed),
            len(self.quarantined),
            self.refused,
        )
        assert (report.lost, report.duplicated, report.leased) == (0, 0, len(self.holder))
        assert report.max_staleness_seen <= MAX_STALENESS

    def teardown(self):
        self.drain()
        numbers = [line["prompt"] for line in self.lines()]
        assert numbers == self.consumed == [n for n in range(self.admitted) if n not in self.quarantined]
        again = Ledger(self.directory / "rollouts", fsync=False)
        assert {row.number: row.actor for row in again.rollouts(numbers)} == self.stored
        self.runner.close()
        shutil.rmtree(self.directory)

    def drain(self):
        """All actors die, a new one completes everything: the queue must come to its end without a wait."""
        for actor in "abc":
            self.release(actor)
        if missing := -self.admitted % BATCH:
            self.admit([Source.POLICY] * missing)
        while self.step * BATCH < self.admitted:
            self.applied["a"] = self.step
            self.lease("a", 2 * BATCH)
            for actor, number, version in self.attempts:
                self.do(self.queue.commit(actor, encode([self.row(number, (version,), actor)])))
                self.store(number, actor)
            self.attempts.clear()
            numbers = range(self.step * BATCH, (self.step + 1) * BATCH)
            self.consumed += [number for number in numbers if number in self.stored]
            assert list(self.do(self.queue.take(self.step, 1, 0.0)).numbers) == [n for n in numbers if n in self.stored]
            self.step += 1

    def may_start(self, number, version):
        return self.sources[number] is Source.GOLD or version >= number // BATCH - MAX_STALENESS

    def row(self, number, versions, actor):
        return rollout(number, versions, actor, source=self.sources[number])

    def done(self, number):
        return number in self.stored or number in self.quarantined

    def store(self, number, actor):
        if self.done(number):
            self.refused += 1
        else:
            self.stored[number] = actor
            self.holder.pop(number, None)

    def forget_expired(self):
        self.holder = {n: held for n, held in self.holder.items() if held[1] > self.clock.now_s}

    def lines(self):
        return read_json_lines(self.directory / "consumed.jsonl")


Orders.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestOrders = Orders.TestCase

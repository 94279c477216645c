"""A whole small run around the real queue: a driver, a learner and actors, played by hand, that may break anywhere.

Every method is one thing that happens. `finish` plays on without faults, a bounded number of rounds, to the last step.
What must hold whatever happened is asserted where it can be seen and in `check`; the oracle is written from the rules
of the steps that count, not from the queue's code.
"""

import asyncio
import shutil
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from tests.fakes.full_disk import files_of_at_most
from tests.fakes.rollout_rows import HandClock, numbered, rollout
from unisd_rl.config.rollout import RolloutConfig
from unisd_rl.storage.jsonl import read_json_lines
from unisd_rl.transport.rollouts.dispatch import LeaseRequest
from unisd_rl.transport.rollouts.history import RolledBack
from unisd_rl.transport.rollouts.ledger import Ledger
from unisd_rl.transport.rollouts.queue import NotAdmitted, RolloutQueue
from unisd_rl.transport.rollouts.schema import decode, encode
from unisd_rl.types import PolicyVersion, Source

LEASE_S, SHARDS = 10.0, 2


@dataclass(frozen=True)
class Setting:
    batch_size: int
    max_staleness: int
    publish_every: int
    lease_unit: int
    steps: int
    max_attempts: int = 2
    answers: int = 1  # per prompt

    @property
    def prompts(self) -> int:
        return self.steps * self.batch_size


@dataclass
class Actor:
    """`flying` are its attempts by unit: of each prompt, the version of every token so far."""

    name: str
    applied: PolicyVersion
    flying: dict[int, dict[int, list[PolicyVersion]]] = field(default_factory=dict)
    retired: bool = False

    @property
    def numbers(self) -> list[int]:
        return [number for unit in self.flying.values() for number in unit]


class GatedLedger(Ledger):
    """Writes when the gate is open: other calls come in between."""

    gate: asyncio.Event | None = None

    async def append(self, data, barred=(), rows=None):
        if self.gate is not None:
            await self.gate.wait()
        return await super().append(data, barred, rows)


class World:
    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.directory, self.runner, self.clock = Path(tempfile.mkdtemp()), asyncio.Runner(), HandClock()
        self.lineage = self.step = self.admitted = self.joined = 0
        self.holding = False  # the learner was handed the batch of `step` and has not trained on it yet
        self.starts = [(0, 0)]  # of every lineage: its first step
        self.checkpoints: list[int] = []
        self.published = PolicyVersion(0, 0)
        self.actors: list[Actor] = []
        self.stored: dict[int, tuple[str, list[int]]] = {}
        self.writing: list[tuple[asyncio.Task, Actor, dict[int, dict[int, list[PolicyVersion]]]]] = []
        self.waiting: asyncio.Task | None = None  # the learner's call for the batch of `step`
        self.abandoned: list[asyncio.Task] = []  # such calls of learners that have rolled back since
        self.open()
        self.join()

    # the queue's process

    def do(self, call):
        return self.runner.run(call)

    def open(self) -> None:
        setting = self.setting
        config = RolloutConfig(
            max_staleness=setting.max_staleness,
            lease_s=LEASE_S,
            max_attempts=setting.max_attempts,
            answers_per_prompt=setting.answers,
            lease_unit=setting.lease_unit,
        )
        self.told: set[str] = set()  # who this process of the queue knows to be retired
        self.ledger = GatedLedger(self.directory / "rollouts", fsync=False)
        self.queue = RolloutQueue(self.directory, setting.batch_size, config, self.clock, self.ledger)

    def queue_dies(self) -> None:
        self.cancel_calls()
        self.do(asyncio.sleep(0))
        self.writing.clear()
        self.abandoned.clear()
        self.waiting = None
        self.open()
        assert self.do(self.queue.lineage()) == self.lineage, "the lineage was forgotten"

    def cancel_calls(self) -> None:
        for task in (*(task for task, *_ in self.writing), *self.abandoned, self.waiting):
            if task is not None:
                task.cancel()

    # the driver and the learner

    def admit(self) -> None:
        setting = self.setting
        ahead = self.step + setting.max_staleness + 2
        self.let_in(self.admitted, min(ahead * setting.batch_size, setting.prompts))

    def tell_of_retired(self) -> None:
        for actor in self.actors:
            if actor.retired:
                self.do(self.queue.retire(actor.name))
                self.told.add(actor.name)

    def let_in(self, first: int, end: int) -> None:
        self.tell_of_retired()
        self.do(self.queue.admit([numbered(number, self.source(number)) for number in range(first, end)]))
        self.admitted = max(self.admitted, end)

    def take(self, readmitted: bool = False) -> None:
        """Hand the batch to the learner, if it is there. A queue that was started again is told what was admitted."""
        numbers = self.batch(self.step)
        try:
            taken = self.do(self.queue.take(self.step, SHARDS, 0.0))
        except NotAdmitted:
            assert not readmitted or self.admitted <= numbers[-1], f"step {self.step} was admitted in vain"
            if not readmitted:
                self.let_in(self.step * self.setting.batch_size, self.admitted)
                self.take(readmitted=True)
            return
        except TimeoutError:
            all_done = all(self.done(number) for number in numbers)
            assert not all_done, f"step {self.step} waits for what is done"
            return
        self.hand_over(taken)

    @property
    def asks_for_a_batch(self) -> bool:
        """Whether the learner has nothing and waits for nothing."""
        return not self.holding and self.waiting is None and self.step < self.setting.steps

    def wait_for_batch(self) -> None:
        """Ask for the batch and go on: whatever happens then happens while the learner's call waits."""
        self.let_in(self.step * self.setting.batch_size, self.admitted)
        self.waiting = self.runner.get_loop().create_task(self.queue.take(self.step, SHARDS, 1e6))
        self.do(asyncio.sleep(0))

    def hear(self) -> None:
        """The learner's call, if it is answered by now."""
        self.do(asyncio.sleep(0))
        if self.waiting is not None and self.waiting.done():
            call, self.waiting = self.waiting, None
            if not isinstance(call.exception(), NotAdmitted):
                self.hand_over(call.result())
        for call in self.abandoned:
            assert not call.done() or isinstance(call.exception(), RolledBack), "a rolled back learner was answered"

    def hand_over(self, taken) -> None:
        numbers = self.batch(self.step)
        expected = [number for number in numbers if number not in self.quarantined()]
        assert list(taken.numbers) == expected, f"step {self.step} was handed {taken.numbers}"
        shards = [decode(shard) for shard in taken.shards]
        groups = list(dict.fromkeys(number // self.setting.answers for number in expected))
        dealt = [[n for n in expected if n // self.setting.answers in groups[rank::SHARDS]] for rank in range(SHARDS)]
        assert [[row.number for row in rows] for rows in shards] == dealt, "a group was split, or not dealt in turn"
        rows = {row.number: row for rows in shards for row in rows}
        for number, row in rows.items():
            name, versions = self.stored[number]
            assert row.actor == name, f"prompt {number} is not the one that came first"
            if row.source is Source.POLICY:
                assert row.versions.tolist() == versions, f"prompt {number} is not the one that came first"
                assert len(set(row.lineages.tolist())) == 1, f"prompt {number} has tokens of two lineages"
                assert self.step - min(versions) <= self.setting.max_staleness, f"prompt {number} is too stale"
        self.holding = True

    def take_unheard(self) -> None:
        """The queue's process ends before its answer arrives: the driver asks again for what it has admitted."""
        self.admit()
        self.take()
        if self.holding:
            self.holding = False
            self.queue_dies()
            self.take()
            assert self.holding, f"step {self.step} is not handed over again"

    def train(self) -> None:
        self.step, self.holding = self.step + 1, False
        if self.step % self.setting.publish_every == 0:
            self.published = PolicyVersion(self.lineage, self.step)

    def save(self) -> None:
        self.checkpoints.append(self.step)

    def learner_dies(self, damaged: bool) -> None:
        """It goes on from the newest checkpoint, or the one before if that is damaged."""
        self.hear()
        if damaged and self.checkpoints:
            self.checkpoints.pop()
        if self.waiting is not None:
            self.abandoned.append(self.waiting)
        self.step, self.holding, self.waiting = self.checkpoints[-1] if self.checkpoints else 0, False, None
        self.lineage += 1
        self.starts.append((self.lineage, self.step))
        self.do(self.queue.roll_back(self.lineage, self.step))
        self.admitted = self.step * self.setting.batch_size
        self.published = PolicyVersion(self.lineage, self.step)

    def driver_dies(self, damaged: bool) -> None:
        """Everything ends with it; a new one resumes."""
        self.queue_dies()
        self.actors.clear()
        self.learner_dies(damaged)
        self.join()

    # the actors

    def join(self) -> None:
        self.actors.append(Actor(f"actor-{self.joined}", self.published))
        self.joined += 1

    def lease(self, actor: Actor, wanted: int) -> None:
        self.given(actor, self.do(self.queue.lease(actor.name, actor.applied, wanted, 0.0)))

    def given(self, actor: Actor, prompts) -> None:
        """What may be leased to this actor, and no more, begins to fly."""
        assert not (prompts and actor.name in self.told), "a retired actor was given prompts"
        for number in (prompt.number for prompt in prompts):
            assert not self.done(number), f"prompt {number} is done and was given to {actor.name} again"
            policy = self.source(number) is Source.POLICY
            oldest = number // self.setting.batch_size - self.setting.max_staleness
            assert not policy or actor.applied.lineage == self.lineage, f"{actor.name} is of another lineage"
            assert not policy or actor.applied.number >= oldest, f"{actor.name} is too stale for prompt {number}"
        units = groupby((prompt.number for prompt in prompts), key=lambda number: number // self.setting.lease_unit)
        for unit, numbers in units:
            actor.flying[unit] = {number: [actor.applied] for number in numbers}
            whole = [number for number in self.numbers_of(unit) if not self.done(number)]
            assert list(actor.flying[unit]) == whole, f"{actor.name} was given a part of unit {unit}"

    def commit(self, actor: Actor, units: list[int], fate: str, wanted: int = 0) -> None:
        """`fate`: "heard", "unheard" (the answer is lost), "disk full", "slow" (others come in between). The same call
        asks for `wanted` prompts, on the weights that the actor has now."""
        rows = {unit: actor.flying[unit] for unit in units}
        if fate == "slow":
            self.ledger.gate = self.ledger.gate or asyncio.Event()
        call = self.queue.commit(actor.name, self.encoded(actor, rows), LeaseRequest(actor.applied, wanted))
        task = self.runner.get_loop().create_task(call)
        if fate == "slow":
            self.writing.append((task, actor, rows))
            self.do(asyncio.sleep(0))
            return
        self.write_out()
        with files_of_at_most(0) if fate == "disk full" else nullcontext():
            self.do(wait_for(task))
        self.wrote(task, actor, rows)
        if fate == "heard" and task.exception() is None:
            self.forget(actor, units)
            self.given(actor, task.result().prompts)

    def write_out(self) -> None:
        """What is slow comes to its end."""
        if self.ledger.gate is not None:
            self.ledger.gate.set()
            self.ledger.gate = None
        for task, actor, rows in self.writing:
            self.do(wait_for(task))
            self.wrote(task, actor, rows)
            self.forget(actor, list(rows))
            if task.exception() is None:
                self.given(actor, task.result().prompts)
        self.writing.clear()

    def wrote(self, task, actor, rows) -> None:
        if (error := task.exception()) is not None:
            assert isinstance(error, OSError), error
            return
        for unit in rows.values():
            for number, tokens in unit.items():
                if number not in self.quarantined():
                    self.stored.setdefault(number, (actor.name, [token.number for token in tokens]))

    def forget(self, actor: Actor, units: list[int]) -> None:
        for unit in units:
            actor.flying.pop(unit, None)

    def fail(self, actor: Actor, number: int) -> None:
        self.do(self.queue.fail(actor.name, number, "said so"))
        self.forget(actor, [number // self.setting.lease_unit])

    def renew(self, actor: Actor) -> None:
        self.do(self.queue.renew(actor.name, actor.numbers))

    def update(self, actor: Actor) -> None:
        """Apply what was published, in mid-generation."""
        if actor.applied.lineage < self.published.lineage:
            self.abandon(actor)
        if actor.applied != self.published:
            actor.applied = self.published
            for unit in actor.flying.values():
                for tokens in unit.values():
                    tokens.append(actor.applied)

    def abandon(self, actor: Actor) -> None:
        """Give back everything in flight."""
        actor.flying.clear()
        self.do(self.queue.release(actor.name))

    def retire(self, actor: Actor) -> None:
        """The driver gives it up, and it may not have noticed."""
        actor.retired = True
        self.tell_of_retired()

    def dies(self, actor: Actor) -> None:
        """Nobody notices: its leases must expire."""
        self.actors.remove(actor)

    def time_passes(self, seconds: float) -> None:
        self.clock.now_s += seconds

    # the end

    def finish(self) -> None:
        """No more faults: each round ends at least one step, or something waits for ever."""
        self.write_out()
        for _ in range(2 * self.setting.steps + 2):
            if self.step == self.setting.steps:
                break
            self.round()
            self.check()
        assert self.step == self.setting.steps, f"deadlock: {self.do(self.queue.report())}"
        numbers = [number for number in range(self.setting.prompts) if number not in self.quarantined()]
        assert sorted(self.stored) == numbers, f"stored in the end: {sorted(self.stored)}"

    def round(self) -> None:
        self.time_passes(LEASE_S)
        self.admit()
        if all(actor.retired for actor in self.actors):
            self.join()
        for actor in self.actors:
            if not actor.retired:
                self.update(actor)
                self.lease(actor, self.setting.prompts)
            if actor.flying:
                self.commit(actor, list(actor.flying), "heard")
        self.hear()
        if self.asks_for_a_batch:
            self.take()
        if self.holding:
            self.train()

    def check(self) -> None:
        """What holds after everything that happens."""
        self.hear()
        report, surviving = self.do(self.queue.report()), self.surviving()
        quarantined, batch_size = self.quarantined(), self.setting.batch_size
        end = min((self.step + self.holding) * batch_size, self.setting.prompts)
        consumed = [line["prompt"] for line in surviving]
        assert consumed == [n for n in range(end) if n not in quarantined], f"the steps that count consumed {consumed}"
        for lineage, lines in groupby(self.lines("consumed"), key=lambda line: line["learner_lineage"]):
            taken = [(line["step"], line["prompt"]) for line in lines]
            first, last = dict(self.starts)[lineage] * batch_size, taken[-1][1]
            rising = [(n // batch_size, n) for n in range(first, last + 1) if n not in quarantined]
            assert taken == rising, f"the steps of lineage {lineage} do not rise by one: {taken}"
        rollbacks = [(line["lineage"], line["step"]) for line in self.lines("lineages")]
        assert rollbacks == self.starts[1:], "a rollback is not on storage"
        assert (report.lost, report.duplicated, report.too_stale) == (0, 0, 0), f"reported: {report}"
        assert (report.consumed, report.lineage) == (len(surviving), self.lineage), f"reported: {report}"
        assert report.max_staleness_seen <= self.setting.max_staleness, f"reported: {report}"
        numbers = [number for entry in self.ledger.entries for number in entry.numbers]
        assert len(numbers) == len(set(numbers)), f"stored twice: {numbers}"
        assert quarantined.isdisjoint(numbers), f"quarantined and stored: {quarantined}, {numbers}"
        assert set(self.stored) <= set(numbers), "what was acknowledged is gone"

    def close(self) -> None:
        self.cancel_calls()
        self.runner.close()
        shutil.rmtree(self.directory)

    # what the files and the rules say

    def surviving(self) -> list[dict]:
        """Lines of steps that no later lineage began at or before."""
        return [
            line
            for line in self.lines("consumed")
            if all(line["step"] < first for lineage, first in self.starts if lineage > line["learner_lineage"])
        ]

    def lines(self, name: str) -> list[dict]:
        return read_json_lines(self.directory / f"{name}.jsonl")

    def quarantined(self) -> set[int]:
        return {line["prompt"] for line in self.lines("quarantined")}

    def done(self, number: int) -> bool:
        return number in self.stored or number in self.quarantined()

    def batch(self, step: int) -> list[int]:
        first = step * self.setting.batch_size
        return list(range(first, first + self.setting.batch_size))

    def numbers_of(self, unit: int) -> list[int]:
        first = unit * self.setting.lease_unit
        return list(range(first, first + self.setting.lease_unit))

    def source(self, number: int) -> Source:
        return Source.GOLD if number // self.setting.answers % 5 == 3 else Source.POLICY

    def encoded(self, actor: Actor, rows) -> bytes:
        return encode(
            [
                replace(
                    rollout(number, tuple(token.number for token in tokens), actor.name, source=self.source(number)),
                    lineages=self.lineages(number, tokens),
                )
                for unit in rows.values()
                for number, tokens in unit.items()
            ]
        )

    def lineages(self, number: int, tokens: list[PolicyVersion]):
        policy = self.source(number) is Source.POLICY
        return np.array([token.lineage for token in tokens], np.int32) if policy else None


async def wait_for(task) -> None:
    await asyncio.wait([task])

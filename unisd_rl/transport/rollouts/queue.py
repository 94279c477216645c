"""The rollout queue: numbered prompts out to the actors, completed rollouts in, batches to the learner.

                admit                 lease                    commit
    driver ------------->  waiting  ---------->  leased  ------------------>  ledger (on storage)
                              ^                     |                             |
                              +-- fail, release, retire, expiry                   | take(step)
                              |                                                   v
                              +---- too many failures: quarantined       learner's batch, in order

Who waits for whom: `lease` waits until the admission rule lets a prompt start, which a newer applied
version frees; `take(step)` waits until each of the step's prompts is stored or quarantined. It
promises that each admitted prompt is trained on exactly once and in order, whatever actors do: a
rollout is on storage before its lease ends, a second one of the same number is refused, and a prompt
that keeps failing leaves its place empty. After `roll_back` the learner is handed the steps it lost again,
from the ledger: what is stored is never generated again.

Only `commit` gives way to other calls half done, while rows are written; what it writes is held meanwhile: nobody is
given it, nobody fails it, and no lease of it expires.

A plain class; `driver_client.ServedQueue` is the Ray actor. Under `directory` it keeps `rollouts/` (the ledger),
`consumed.jsonl` with its summaries, `quarantined.jsonl` and `lineages.jsonl`; opening the directory again restores what
they say. What was admitted and leased is forgotten then: the driver admits again, and actors renew what they hold.
"""

import time
from collections.abc import Container, Sequence, Set
from pathlib import Path

import pyarrow as pa

from unisd_rl.config.rollout import RolloutConfig
from unisd_rl.storage.stores import pin_location
from unisd_rl.transport.rollouts import admission
from unisd_rl.transport.rollouts.batch import (
    CommittedRow,
    QueueBatch,
    committed_rows,
    consumed_records,
    split_for_ranks,
)
from unisd_rl.transport.rollouts.consumption import Consumption
from unisd_rl.transport.rollouts.dispatch import BatchWaits, CommitAnswer, Dispatcher, LeaseRequest
from unisd_rl.transport.rollouts.history import LineageLog, Quarantine
from unisd_rl.transport.rollouts.leases import Clock, LeaseBook
from unisd_rl.transport.rollouts.ledger import Ledger
from unisd_rl.transport.rollouts.number_set import NumberSet
from unisd_rl.transport.rollouts.report import QueueReport, RejectedRows, mean
from unisd_rl.transport.rollouts.schema import read_table
from unisd_rl.types import NumberedPrompt, PolicyVersion


class NotAdmitted(Exception):
    """A step was asked for whose prompts were never let in, or before this queue was started again."""


class RolloutQueue:
    """Bounded (by the admission rule), durable and in order. All counts are of this directory's run.

    `batch_size` B: step k trains on prompts kB .. kB+B-1. Of the rollout section it reads `max_staleness`, `lease_s`
    (of `clock`), `max_attempts`, `unit_size`, `answers_per_prompt`, `fsync` and `ledger` (where rollouts are kept
    instead of in `directory`), which the argument `ledger` overrides.
    """

    def __init__(
        self,
        directory: Path,
        batch_size: int,
        rollout: RolloutConfig,
        clock: Clock = time.monotonic,
        ledger: Ledger | None = None,
    ) -> None:
        self._batch_size, self._max_staleness, fsync = batch_size, rollout.max_staleness, rollout.fsync
        self._group_size = rollout.answers_per_prompt
        self._ledger = _open_ledger(directory, rollout) if ledger is None else ledger
        self._quarantine = Quarantine(directory / "quarantined.jsonl", fsync, rollout.max_attempts)
        self._lineages = LineageLog(directory / "lineages.jsonl")
        self._consumption = Consumption(directory / "consumed.jsonl", fsync, self._lineages, rollout.max_staleness)
        self._book = LeaseBook(rollout.lease_s, clock, rollout.unit_size)
        done = NumberSet.from_ranges((*self._ledger.numbers.ranges, *self._quarantine.numbers.ranges))
        self._dispatcher = Dispatcher(self._book, self._may_start, done)
        self._batches, self._rejected = BatchWaits(), RejectedRows()

    async def admit(self, prompts: Sequence[NumberedPrompt]) -> None:
        """Let numbered prompts in. Those known already, or stored or quarantined by an earlier process, are ignored."""
        self._dispatcher.admit(prompts)

    async def lease(self, actor: str, applied: PolicyVersion, wanted: int, timeout_s: float) -> list[NumberedPrompt]:
        """Up to `wanted` prompts, lowest numbers first, that may start on weights of version `applied`.

        Waits until there is at least one; after `timeout_s` seconds the list is empty. A later call of
        the same actor (it has newer weights by now) ends an earlier one that still waits. Whole units are leased
        (`rollout.unit_size`): the last one may go over `wanted`. A retired actor gets nothing.
        """
        return await self._dispatcher.lease(actor, applied, wanted, timeout_s)

    async def renew(self, actor: str, numbers: Sequence[int]) -> None:
        """The actor lives and holds these prompts: start the time of their leases anew.

        Those that no actor holds (their lease expired, or this queue was started again) are leased to it again. A unit
        is renewed by any of its numbers.
        """
        self._dispatcher.renew(actor, [number for number in numbers if not self._is_done(number)])

    async def commit(self, actor: str, data: bytes, request: LeaseRequest | None = None) -> CommitAnswer:
        """Store completed rollouts (an IPC stream of `schema.encode`), end their leases, and lease the next prompts.

        They are on storage when this returns. Rows of a number that is stored or quarantined already
        are refused and counted; whoever completes a prompt first counts, also after its lease expired. A row that would
        be too stale at its step is refused too, with its unit, and the unit waits again.

        With a `request`, prompts that may start at once are leased in the same call; it waits for none, and what may
        start goes first to the lease calls that wait. Without one no prompts are answered.

        Raises:
            ValueError: rows of a unit are missing that are not done: a unit is committed whole. Nothing is stored.
            OSError: nothing could be written. Nothing is stored, and the actor holds the leases: it may commit again.
        """
        table = read_table(data)
        rows = committed_rows(table)
        numbers = {row.number for row in rows}
        self._check_units(actor, numbers)
        stale = self._too_stale(rows)
        stored = await self._store(actor, data, table, numbers, stale)
        self._rejected.count(rows, stored, stale)
        for number in stale:
            if self._book.holder(number) == actor:
                self._book.give_back(self._book.unit_of(number))
        if request is None:
            self._dispatcher.dispatch()
            return CommitAnswer([], bool(self._batches))
        return CommitAnswer(self._dispatcher.lease_now(actor, request), bool(self._batches))

    async def fail(self, actor: str, number: int, reason: str) -> None:
        """This attempt failed: issue the prompt again, with its unit, or quarantine it after `max_attempts` failures.

        What is left of the unit of a quarantined prompt is issued again. Does nothing when the actor no longer holds
        the lease: a new attempt is under way. Raises OSError when the quarantine cannot be written: the actor keeps the
        lease, and may say it again.
        """
        self._dispatcher.expire()
        if self._book.holder(number) == actor:
            given_up = self._quarantine.record_failure(number, actor, reason)
            self._book.give_back(self._book.unit_of(number))
            if given_up:
                self._mark_done([number])
        self._dispatcher.dispatch()

    async def release(self, actor: str) -> None:
        """Issue everything this actor holds again, and let it wait for nothing: it died, or it stops."""
        self._dispatcher.release(actor)

    async def retire(self, actor: str) -> None:
        """As `release`, and this name is never given a prompt again. What it still commits counts."""
        self._dispatcher.retire(actor)

    async def roll_back(self, lineage: int, step: int) -> None:
        """The learner goes on from its checkpoint of `step`, in a new lineage; on the disk when this returns.

        Steps from there on are handed over again: what is stored comes from the ledger. Policy prompts are leased only
        to actors with weights of the new lineage. Saying the same again does nothing.

        Raises ValueError when the lineage does not rise, or rollouts of these steps were thrown away.
        """
        if (gone := self._ledger.discarded.numbers.end) > step * self._batch_size:
            raise ValueError(
                f"step {step} cannot be gone back to, as rollouts of prompts below {gone} were thrown away "
                "(rollout.keep); bring back the checkpoints that are gone, or start a new run"
            )
        if self._lineages.roll_back(lineage, step, max(0, self._consumption.steps - step)):
            self._consumption.recount()
        self._dispatcher.dispatch()

    async def discard(self, step: int) -> None:
        """Rollouts of steps before `step` are not asked for again: they may be thrown away."""
        self._ledger.discard(step * self._batch_size)

    async def lineage(self) -> int:
        """The learner's lineage, 0 before the first rollback."""
        return self._lineages.current

    async def take(self, step: int, shards: int, timeout_s: float) -> QueueBatch[pa.Buffer]:
        """The rollouts of `step` in prompt order, split for `shards` ranks, and written to `consumed.jsonl`.

        No group is split. Quarantined prompts are left out. The step taken last may be asked for again: it is consumed
        once.

        Raises:
            NotAdmitted: a prompt of the step was neither admitted nor is it done.
            TimeoutError: after `timeout_s` seconds, naming the prompts it waited for.
            RolledBack: the learner did so meanwhile; nothing is handed over or written.
            OSError: `consumed.jsonl` could not be written: the step may be asked for again.
        """
        numbers, lineage = range(step * self._batch_size, (step + 1) * self._batch_size), self._lineages.current
        await self._wait_for(step, [number for number in numbers if not self._is_done(number)], timeout_s)
        self._lineages.require(lineage)
        stored = tuple(number for number in numbers if number in self._ledger)
        rows = self._ledger.read(stored)
        records = consumed_records(step, lineage, rows)
        max_staleness = self._consumption.record(step, records)
        self._ledger.forget(numbers.start)  # this step may be asked for again
        return QueueBatch(
            step=step,
            shards=split_for_ranks(rows, shards, self._group_size),
            numbers=stored,
            max_staleness=max_staleness,
            tokens=sum(record.tokens for record in records),
            depth=len(self._ledger) - len(self._consumption),
        )

    async def report(self) -> QueueReport:
        """What happened so far."""
        consumption, dispatcher, rejected = self._consumption, self._dispatcher, self._rejected
        consumed, end = consumption.numbers, consumption.steps * self._batch_size
        lost = dispatcher.admitted.below(end) - consumed - self._quarantine.numbers
        mean_issued = rejected.mean_tokens_issued(end, consumption.rows, consumption.tokens)
        mean_consumed = mean(consumption.tokens, consumption.rows)
        return QueueReport(
            admitted=len(dispatcher.admitted),
            issued=len(dispatcher.issued),
            leases=dispatcher.leases,
            committed=len(self._ledger),
            consumed=len(consumed),
            duplicated=consumption.doubled,
            lost=len(lost),
            quarantined=len(self._quarantine),
            failures=self._quarantine.failures,
            expired=dispatcher.expired,
            refused=rejected.refused,
            too_stale=rejected.too_stale,
            waiting=self._book.waiting,
            leased=self._book.leased,
            depth=len(self._ledger) - len(consumed),
            lineage=self._lineages.current,
            steps_lost=self._lineages.steps_lost,
            straddling=consumption.straddling,
            max_staleness_seen=consumption.max_staleness_seen,
            tokens=self._ledger.tokens,
            mean_tokens_issued=mean_issued,
            mean_tokens_consumed=mean_consumed,
            length_difference=mean_consumed - mean_issued,
        )

    def _check_units(self, actor: str, numbers: Set[int]) -> None:
        missing = {other for number in numbers for other in self._book.remaining(self._book.unit_of(number))} - numbers
        if missing:
            raise ValueError(
                f"{actor} committed prompts {sorted(numbers)} without {sorted(missing)}, which are leased with them: "
                "a unit (rollout.answers_per_prompt, rollout.lease_unit) is committed whole"
            )

    def _too_stale(self, rows: Sequence[CommittedRow]) -> set[int]:
        """Those that could not be trained on at their step, and what is in one unit with them."""
        stale = {
            self._book.unit_of(row.number)
            for row in rows
            if row.oldest is not None
            and not self._is_done(row.number)
            and admission.too_stale(row.number, row.oldest, self._batch_size, self._max_staleness)
        }
        return {row.number for row in rows if self._book.unit_of(row.number) in stale}

    async def _store(
        self, actor: str, data: bytes, table: pa.Table, numbers: Set[int], stale: Container[int]
    ) -> Set[int]:
        """Write the rows that are new and fresh, holding their units meanwhile; the numbers stored."""
        barred = {number for number in numbers if number in stale or number in self._quarantine}
        units = {self._book.unit_of(number) for number in numbers - barred if not self._is_done(number)}
        self._book.begin_commit(units)
        try:
            stored = await self._ledger.append(data, barred, table)
        except BaseException:
            self._book.end_commit(units, None if actor in self._dispatcher.retired else actor)
            self._dispatcher.dispatch()
            raise
        self._mark_done(stored)
        self._book.end_commit(units, None)
        return set(stored)

    async def _wait_for(self, step: int, numbers: Sequence[int], timeout_s: float) -> None:
        """Return when these prompts of a step are done."""
        if unknown := self._dispatcher.not_admitted(numbers):
            raise NotAdmitted(f"step {step} needs prompts that were not admitted: {self._dispatcher.describe(unknown)}")
        if missing := await self._batches.wait_until_done(numbers, timeout_s):
            raise TimeoutError(
                f"step {step} waited {timeout_s:g} s for {len(missing)} of {self._batch_size} prompts: "
                + self._dispatcher.describe(missing)
            )

    def _mark_done(self, numbers: Sequence[int]) -> None:
        """These are on storage, or given up: no actor needs them, and a batch need not wait for them."""
        self._dispatcher.mark_done(numbers)
        self._batches.mark_done(numbers)
        self._quarantine.forget_failures(numbers)

    def _is_done(self, number: int) -> bool:
        return number in self._ledger or number in self._quarantine

    def _may_start(self, prompt: NumberedPrompt, applied: PolicyVersion) -> bool:
        return admission.may_start(prompt, applied, self._lineages.current, self._batch_size, self._max_staleness)


def _open_ledger(directory: Path, rollout: RolloutConfig) -> Ledger:
    return Ledger(pin_location(directory / "rollouts", parent=rollout.ledger), rollout.fsync)

"""The rollout queue: numbered prompts out to the actors, completed rollouts in, batches to the learner.

                admit                 lease                    commit
    driver ------------->  waiting  ---------->  leased  ------------------>  ledger (on storage)
                              ^                     |                             |
                              +---- fail, release, expiry                         | take(step)
                              |                                                   v
                              +---- too many failures: quarantined       learner's batch, in order

Who waits for whom: `lease` waits until the admission rule lets a prompt start, which a newer applied
version frees; `take(step)` waits until each of the step's prompts is stored or quarantined. It
promises that each admitted prompt is trained on exactly once and in order, whatever actors do: a
rollout is on storage before its lease ends, a second one of the same number is refused, and a prompt
that keeps failing leaves its place empty.

A plain class; `spawn.py` wraps it as a Ray actor. Under `directory` it keeps `rollouts/` (the ledger),
`consumed.jsonl` and `quarantined.jsonl`; opening the directory again restores what they say.
"""

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from unisd_rl.transport.rollouts import admission
from unisd_rl.transport.rollouts.batch import Consumed, TakenBatch, deal, describe
from unisd_rl.transport.rollouts.journal import Journal
from unisd_rl.transport.rollouts.leases import Clock, LeaseBook
from unisd_rl.transport.rollouts.ledger import Ledger
from unisd_rl.transport.rollouts.place import settle
from unisd_rl.transport.rollouts.report import QueueReport
from unisd_rl.types import NumberedPrompt, PolicyVersion

_NAMED = 8  # prompt numbers an error message spells out


class RolloutQueue:
    """Bounded (by the admission rule), durable and in order. All counts are of this directory's run.

    `batch_size` B: step k trains on prompts kB .. kB+B-1. `max_staleness` in steps. A lease lasts
    `lease_s` seconds of `clock`. The failure number `max_attempts` quarantines a prompt. `ledger` is
    `rollout.ledger`: where rollouts are kept instead of in `directory`.
    """

    def __init__(
        self,
        directory: Path,
        batch_size: int,
        max_staleness: int,
        lease_s: float,
        max_attempts: int,
        fsync: bool,
        clock: Clock = time.monotonic,
        ledger: str | None = None,
    ) -> None:
        self._batch_size, self._max_staleness, self._max_attempts = batch_size, max_staleness, max_attempts
        self._ledger = Ledger(settle(directory / "rollouts", elsewhere=ledger), fsync)
        self._consumed_log = Journal(directory / "consumed.jsonl", fsync)
        self._quarantine_log = Journal(directory / "quarantined.jsonl", fsync)
        self._book = LeaseBook(lease_s, clock)
        self._changed = asyncio.Event()
        self._calls: dict[str, int] = {}
        self._ended = False
        self._admitted: set[int] = set()
        self._issued: set[int] = set()
        self._failures: Counter[int] = Counter()
        self._leases = self._expired = self._refused = 0
        self._quarantined = {int(str(line["prompt"])) for line in self._quarantine_log.restored}
        self._consumed: Counter[int] = Counter()
        self._consumed_tokens = self._straddling = self._max_staleness_seen = self._steps_taken = 0
        for line in self._consumed_log.restored:
            self._count(Consumed(**line))  # type: ignore[arg-type]

    async def admit(self, prompts: Sequence[NumberedPrompt]) -> None:
        """Let numbered prompts in, each number once; those already stored or quarantined need no actor."""
        for prompt in prompts:
            assert prompt.number not in self._admitted, f"prompt {prompt.number} was admitted twice"
            self._admitted.add(prompt.number)
        self._book.add(prompt for prompt in prompts if not self._settled(prompt.number))
        self._notify()

    async def end_admission(self) -> None:
        """No more prompts will come: the last batch may be short."""
        self._ended = True
        self._notify()

    async def lease(self, actor: str, applied: PolicyVersion, wanted: int, timeout_s: float) -> list[NumberedPrompt]:
        """Up to `wanted` prompts, lowest numbers first, that may start on weights of version `applied`.

        Waits until there is at least one; after `timeout_s` seconds the list is empty. A later call of
        the same actor (it has newer weights by now) ends an earlier one that still waits.
        """
        call = self._calls[actor] = self._calls.get(actor, 0) + 1
        self._notify()

        def may_start(prompt: NumberedPrompt) -> bool:
            return admission.may_start(prompt, applied, self._batch_size, self._max_staleness)

        def ready() -> bool:
            first = self._book.first()
            return self._calls[actor] != call or (first is not None and may_start(first))

        if not await self._wait(ready, timeout_s) or self._calls[actor] != call:
            return []
        granted = self._book.grant(actor, wanted, may_start)
        self._leases += len(granted)
        self._issued.update(prompt.number for prompt in granted)
        return granted

    async def renew(self, actor: str) -> None:
        """The actor lives: start the time of its leases anew."""
        self._book.renew(actor)

    async def commit(self, actor: str, data: bytes) -> None:
        """Store completed rollouts (an IPC stream of `schema.encode`) and end their leases.

        They are on storage when this returns. Rows of a number that is stored or quarantined already
        are refused and counted; whoever completes a prompt first counts, also after its lease expired.
        """
        appended = await self._ledger.append(data, barred=self._quarantined)
        self._refused += appended.refused
        for number in appended.stored:
            assert number in self._admitted, f"{actor} committed prompt {number}, which was never admitted"
            if number not in self._quarantined:  # it may have been given up while it was being written
                self._book.end(number)
        self._notify()

    async def fail(self, actor: str, number: int, reason: str) -> None:
        """This attempt failed: issue the prompt again, or quarantine it after `max_attempts` failures.

        Does nothing when the actor no longer holds the lease: a new attempt is under way.
        """
        if self._book.holder(number) != actor:
            return
        self._failures[number] += 1
        if self._failures[number] < self._max_attempts:
            self._book.give_back(number)
        else:
            self._book.end(number)
            self._quarantined.add(number)
            self._quarantine_log.append([{"prompt": number, "actor": actor, "reason": reason}])
        self._notify()

    async def release(self, actor: str) -> None:
        """Issue everything this actor holds again: it died, or it stops."""
        self._book.release(actor)
        self._notify()

    async def take(self, step: int, shards: int, timeout_s: float) -> TakenBatch:
        """The rollouts of `step` in prompt order, dealt to `shards` ranks, and written to `consumed.jsonl`.

        Quarantined prompts are left out. Raises TimeoutError after `timeout_s` seconds, naming the
        prompts it waited for.
        """
        numbers = range(step * self._batch_size, (step + 1) * self._batch_size)
        if not await self._wait(lambda: not self._missing(numbers), timeout_s):
            raise TimeoutError(self._waited_for(step, self._missing(numbers), timeout_s))
        present = tuple(number for number in numbers if number in self._ledger)
        rows = self._ledger.read(present)
        consumed = describe(step, rows)
        oldest = self._bounded_staleness(consumed)
        self._steps_taken = max(self._steps_taken, step + 1)
        self._consumed_log.append(fact.record() for fact in consumed)
        for fact in consumed:
            self._count(fact)
        return TakenBatch(step, deal(rows, shards), present, oldest, sum(fact.tokens for fact in consumed))

    async def report(self) -> QueueReport:
        """What happened so far."""
        committed, tokens, consumed = len(self._ledger), self._ledger.tokens, self._consumed.total()
        end = self._steps_taken * self._batch_size
        due = {number for number in self._admitted if number < end}
        return QueueReport(
            admitted=len(self._admitted),
            issued=len(self._issued),
            leases=self._leases,
            committed=committed,
            consumed=len(self._consumed),
            duplicated=sum(1 for times in self._consumed.values() if times > 1),
            lost=len(due - self._consumed.keys() - self._quarantined),
            quarantined=len(self._quarantined),
            failures=self._failures.total(),
            expired=self._expired,
            refused=self._refused,
            waiting=self._book.waiting,
            leased=self._book.leased,
            depth=committed - len(self._consumed),
            straddling=self._straddling,
            max_staleness_seen=self._max_staleness_seen,
            tokens=tokens,
            mean_tokens_committed=tokens / committed if committed else math.nan,
            mean_tokens_consumed=self._consumed_tokens / consumed if consumed else math.nan,
        )

    def _settled(self, number: int) -> bool:
        return number in self._ledger or number in self._quarantined

    def _missing(self, numbers: Sequence[int]) -> list[int]:
        """Those that a batch must still wait for; after the end of admission, nobody waits for others."""
        return [n for n in numbers if not self._settled(n) and (n in self._admitted or not self._ended)]

    def _bounded_staleness(self, consumed: Sequence[Consumed]) -> int:
        """The largest staleness of a batch; the admission rule promises that it is within the bound."""
        worst = 0
        for fact in consumed:
            if fact.oldest is not None:
                stale = admission.staleness(fact.step, fact.oldest)
                assert stale <= self._max_staleness, (
                    f"prompt {fact.prompt} of step {fact.step} has a token of version {fact.oldest}: "
                    f"staleness {stale} is above max_staleness {self._max_staleness}"
                )
                worst = max(worst, stale)
        return worst

    def _count(self, fact: Consumed) -> None:
        self._consumed[fact.prompt] += 1
        self._consumed_tokens += fact.tokens
        self._steps_taken = max(self._steps_taken, fact.step + 1)
        if fact.oldest is not None:
            stale = admission.staleness(fact.step, fact.oldest)
            self._max_staleness_seen = max(self._max_staleness_seen, stale)
            self._straddling += fact.oldest != fact.newest

    def _waited_for(self, step: int, missing: Sequence[int], timeout_s: float) -> str:
        named = ", ".join(f"{number} ({self._whereabouts(number)})" for number in missing[:_NAMED])
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        return f"step {step} waited {timeout_s:g} s for {len(missing)} of {self._batch_size} prompts: {named}{more}"

    def _whereabouts(self, number: int) -> str:
        if number not in self._admitted:
            return "not admitted"
        holder = self._book.holder(number)
        return f"leased to {holder}" if holder else "waiting for an actor that may start it"

    async def _wait(self, ready: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `ready()`; False after `timeout_s` seconds. Wakes on changes and when leases expire."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            self._expire()
            if ready():
                return True
            left = deadline - loop.time()
            if left <= 0:
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, self._book.until_expiry_s())):
                    await self._changed.wait()

    def _expire(self) -> None:
        numbers = self._book.expire()
        self._expired += len(numbers)
        if numbers:
            self._notify()

    def _notify(self) -> None:
        """Wake all that wait; they look again and wait on a new event."""
        self._changed.set()
        self._changed = asyncio.Event()

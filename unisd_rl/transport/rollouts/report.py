"""The queue's report: counts of what happened, from which a run's summary is made."""

import math
from bisect import bisect_left, insort
from collections.abc import Container, Sequence, Set
from dataclasses import dataclass

from unisd_rl.transport.rollouts.batch import CommittedRow


@dataclass(frozen=True, slots=True)
class QueueReport:
    """Counts are of prompts, one completion each, unless they say otherwise, and of the steps that count where steps
    matter.

    admitted: entered the queue. issued: leased to an actor at least once. leases: prompts leased,
    repeats included. committed: completed and on storage. consumed: trained on at least once.
    duplicated: trained on by more than one step. lost: admitted, belonging to a step that was taken, and
    neither trained on nor quarantined. quarantined: given up after `max_attempts` failures.
    failures: attempts that failed. expired: leases that ran out. refused: rows turned away because
    their number was stored or quarantined already. too_stale: rows turned away because they could not
    have been trained on; the rules of admission keep this at 0. waiting: admitted, no actor holds them.
    leased: an actor holds them. depth: completed, not yet trained on. lineage: the learner's. steps_lost: steps
    that rollbacks have undone. straddling: consumed rows with tokens of more than one version, because an
    update landed in mid-generation. max_staleness_seen: of all consumed tokens, in steps. tokens: completion
    tokens of all committed rows.

    mean_tokens_issued: completion tokens a row, over every completion that actors brought for the steps taken, those
    turned away included. mean_tokens_consumed: over those trained on. Both are nan without rows.
    length_difference: consumed less issued; 0 when nothing that was completed was thrown away, and below 0 when short
    answers are favoured.

    leases, failures, expired, refused and too_stale (and so the rows turned away) are counted since the queue's
    process started.
    """

    admitted: int
    issued: int
    leases: int
    committed: int
    consumed: int
    duplicated: int
    lost: int
    quarantined: int
    failures: int
    expired: int
    refused: int
    too_stale: int
    waiting: int
    leased: int
    depth: int
    lineage: int
    steps_lost: int
    straddling: int
    max_staleness_seen: int
    tokens: int
    mean_tokens_issued: float
    mean_tokens_consumed: float
    length_difference: float


class RejectedRows:
    """The rows that actors brought and that were not stored, since the queue's process started."""

    def __init__(self) -> None:
        self.refused = self.too_stale = 0
        self._rows: list[tuple[int, int]] = []  # prompt number and tokens, lowest number first
        self._end = self._tokens_below_end = 0

    def count(self, rows: Sequence[CommittedRow], stored: Set[int], stale: Container[int]) -> None:
        """Of these rows those whose numbers are `stored` were stored, and those of `stale` came too late."""
        not_seen = set(stored)
        for row in rows:
            if row.number in not_seen:
                not_seen.remove(row.number)
                continue
            self.too_stale += row.number in stale
            self.refused += row.number not in stale
            insort(self._rows, (row.number, row.tokens))
            if row.number < self._end:
                self._tokens_below_end += row.tokens

    def mean_tokens_issued(self, end: int, consumed_rows: int, consumed_tokens: int) -> float:
        """See `QueueReport`; the steps taken have prompts below `end`."""
        before, below = bisect_left(self._rows, (self._end, 0)), bisect_left(self._rows, (end, 0))
        self._tokens_below_end += sum(tokens for _, tokens in self._rows[before:below])
        self._tokens_below_end -= sum(tokens for _, tokens in self._rows[below:before])  # after a rollback
        self._end = end
        return mean(consumed_tokens + self._tokens_below_end, consumed_rows + below)


def mean(total: int, count: int) -> float:
    """nan of nothing."""
    return total / count if count else math.nan

"""What the queue counted: real counts of what happened, from which a run's summary is made."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QueueReport:
    """Counts are of prompts unless they say otherwise.

    admitted: entered the queue. issued: leased to an actor at least once. leases: all leases given,
    repeats included. committed: completed and on storage. consumed: trained on at least once.
    duplicated: trained on more than once. lost: admitted, belonging to a step that was taken, and
    neither trained on nor quarantined. quarantined: given up after `max_attempts` failures.
    failures: attempts that failed. expired: leases that ran out. refused: rows turned away because
    their number was stored or quarantined already. waiting: admitted, no actor holds them. leased:
    an actor holds them. depth: completed, not yet trained on. straddling: consumed rows with tokens
    of more than one version, because an update landed in mid-generation. max_staleness_seen: of all
    consumed tokens, in steps. tokens: completion tokens of all committed rows.
    mean_tokens_committed, mean_tokens_consumed: completion tokens a row (nan without rows); they
    differ when answers of some length are favoured.
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
    waiting: int
    leased: int
    depth: int
    straddling: int
    max_staleness_seen: int
    tokens: int
    mean_tokens_committed: float
    mean_tokens_consumed: float

"""What the learner was handed: `consumed.jsonl`, one line a prompt and step, and the counts of those that count.

Opening it again reads its last part alone. When a part of it is full (`storage/rolling.py`), the counts of all lines up
to there are one line of `consumed_summaries.jsonl`:

    consumed.00001.jsonl  consumed.00002.jsonl  consumed.jsonl      counts = summary of part 2 + lines of the newest
    summary of part 1 --> summary of part 2 --------^

A rollback to a step that a summary has counted undoes some of its lines: such a summary holds no more, and the one
before it is gone on from. Where none holds, as in runs of earlier versions, all lines are read.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from unisd_rl.storage.jsonl import JsonLinesFile, iter_json_lines, newest_json_lines
from unisd_rl.storage.lineage import step_survives
from unisd_rl.storage.rolling import closed_parts
from unisd_rl.transport.rollouts import admission
from unisd_rl.transport.rollouts.batch import ConsumedRecord
from unisd_rl.transport.rollouts.history import LineageLog
from unisd_rl.transport.rollouts.number_set import NumberSet


@dataclass(frozen=True, slots=True)
class _Summary:
    """The counts after the lines of all parts up to number `part`, which has `nbytes`, as of `lineage`.

    `numbers` and `doubled` are ranges (start, stop); the others are those of `Consumption`.
    """

    part: int
    nbytes: int
    lineage: int
    numbers: Sequence[tuple[int, int]] = ()
    doubled: Sequence[tuple[int, int]] = ()
    taken: int | None = None
    rows: int = 0
    steps: int = 0
    tokens: int = 0
    straddling: int = 0
    max_staleness_seen: int = 0


_NOTHING = _Summary(part=0, nbytes=0, lineage=0)


class Consumption:
    """Counts of prompts, of the steps that count only; restored from `path`.

    `numbers` are the prompts trained on; `rows` are those handed over, doubles included.
    """

    def __init__(self, path: Path, fsync: bool, lineages: LineageLog, max_staleness: int) -> None:
        self._path, self._lineages, self._max_staleness = path, lineages, max_staleness
        self._summaries_path = path.with_name(f"{path.stem}_summaries{path.suffix}")
        self._file = JsonLinesFile(path, fsync, on_full=self._summarise)
        self._summaries = JsonLinesFile(self._summaries_path, fsync)
        self.recount()

    def recount(self) -> None:
        """Count anew what the files say: after a rollback other lines survive."""
        summaries = (_Summary(**line) for line in reversed(newest_json_lines(self._summaries_path)))
        summary = next(filter(self._holds, summaries), _NOTHING)
        self.numbers, self._doubled = map(NumberSet.from_ranges, (summary.numbers, summary.doubled))
        self._taken, self.rows, self.steps, self.tokens = summary.taken, summary.rows, summary.steps, summary.tokens
        self.straddling, self.max_staleness_seen = summary.straddling, summary.max_staleness_seen
        lines = iter_json_lines(self._path, ConsumedRecord, ConsumedRecord.from_json, first_part=summary.part + 1)
        for record in lines:
            if step_survives(record.learner_lineage, record.step, self._lineages.rollbacks):
                self._count(record)

    def __len__(self) -> int:
        """How many prompts were trained on."""
        return len(self.numbers)

    @property
    def doubled(self) -> int:
        """Prompts that more than one step trained on."""
        return len(self._doubled)

    def record(self, step: int, records: Sequence[ConsumedRecord]) -> int:
        """Write what `step` trains on, and count it; the largest staleness among its tokens.

        Raises AssertionError, and records nothing, when that is above the bound: the admission rule promises that it
        never is.
        """
        worst = max(map(self._bounded_staleness, records), default=0)
        again = step == self._taken
        new = [record for record in records if not (again and record.prompt in self.numbers)]
        if new:
            self._file.append(new)
        for record in new:
            self._count(record)
        self._taken, self.steps = step, max(self.steps, step + 1)
        return worst

    def _bounded_staleness(self, record: ConsumedRecord) -> int:
        stale = 0 if record.oldest is None else max(0, admission.staleness(record.step, record.oldest))
        assert stale <= self._max_staleness, (
            f"prompt {record.prompt} of step {record.step} has a token of version {record.oldest}: "
            f"staleness {stale} is above max_staleness {self._max_staleness}"
        )
        return stale

    def _count(self, record: ConsumedRecord) -> None:
        (self._doubled if record.prompt in self.numbers else self.numbers).add(record.prompt)
        self.rows += 1
        self.tokens += record.tokens
        self._taken, self.steps = record.step, max(self.steps, record.step + 1)
        self.straddling += record.oldest != record.newest
        self.max_staleness_seen = max(self.max_staleness_seen, self._bounded_staleness(record))

    def _summarise(self) -> None:
        """Write the counts of now, when a part is full. A summary that the disk does not take is written later."""
        part, path = max(closed_parts(self._path).items())
        summary = _Summary(
            part=part,
            nbytes=path.stat().st_size,
            lineage=self._lineages.current,
            numbers=self.numbers.ranges,
            doubled=self._doubled.ranges,
            taken=self._taken,
            rows=self.rows,
            steps=self.steps,
            tokens=self.tokens,
            straddling=self.straddling,
            max_staleness_seen=self.max_staleness_seen,
        )
        self._summaries.append_or_keep(asdict(summary))

    def _holds(self, summary: _Summary) -> bool:
        """Whether all that it counted counts still, and its part is as it was: a power loss may have undone either."""
        part = closed_parts(self._path).get(summary.part)
        whole = part is not None and part.stat().st_size == summary.nbytes
        later = [rollback for rollback in self._lineages.rollbacks if rollback.lineage > summary.lineage]
        return whole and all(rollback.step >= summary.steps for rollback in later)

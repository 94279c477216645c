"""What the queue remembers of a run besides the rollouts: lineages and quarantine, and consumption (`consumption.py`).

Each is a file of JSON lines in the run's folder that is restored when the queue is opened again:

    lineages.jsonl     LineageLog    one line a rollback       which steps count
    consumed.jsonl     Consumption   one line a prompt, step   what the learner was handed
    quarantined.jsonl  Quarantine    one line a prompt         whose place in its batch stays empty

Lineage 0 starts at step 0. When the learner rolls back to its checkpoint of step c, a new lineage goes on from step c,
and what older ones did from step c on is undone:

    lineage 0:  0 1 2 3 4 5 6 7
    lineage 1:          4 5 6 7 8 9       roll_back(1, 4)
    lineage 2:                  8 9 10    roll_back(2, 8)
    survive:    0 1 2 3 4 5 6 7 8 9 10    of lineage 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2

Every step counts once. One that was undone stays in `consumed.jsonl`, under the lineage that took it: its prompts are
handed over again. A step that is asked for again before the next one (the queue's process ended before its answer
arrived) is handed over again too, but was consumed once.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from unisd_rl.storage.jsonl import JsonLinesFile, read_json_lines
from unisd_rl.storage.lineage import Rollback, read_rollbacks
from unisd_rl.transport.rollouts.number_set import NumberSet


class RolledBack(Exception):
    """The learner rolled back while something was waited for on its behalf: nobody wants it any more."""


class LineageLog:
    """The `rollbacks` of a run in order, restored from `path`."""

    def __init__(self, path: Path) -> None:
        self._file = JsonLinesFile(path, fsync=True)
        self.rollbacks = list(read_rollbacks(path))

    @property
    def current(self) -> int:
        """The learner's lineage."""
        return self.rollbacks[-1].lineage if self.rollbacks else 0

    @property
    def steps_lost(self) -> int:
        """Steps undone so far, by all rollbacks."""
        return sum(rollback.steps_lost for rollback in self.rollbacks)

    def roll_back(self, lineage: int, step: int, steps_lost: int) -> bool:
        """Record one; False, and nothing is done, when it is the newest one said again.

        Raises ValueError when the lineage does not rise.
        """
        if self.rollbacks and (lineage, step) == (self.rollbacks[-1].lineage, self.rollbacks[-1].step):
            return False
        if lineage <= self.current:
            raise ValueError(f"lineage {lineage} from step {step} does not follow lineage {self.current}: it must rise")
        rollback = Rollback(lineage, step, steps_lost)
        self._file.append([asdict(rollback)])
        self.rollbacks.append(rollback)
        return True

    def require(self, lineage: int) -> None:
        """Raise RolledBack unless `lineage` is the current one."""
        if lineage != self.current:
            raise RolledBack(f"the learner went from lineage {lineage} to {self.current}")


class Quarantine:
    """The `numbers` given up, restored from `path`. `failures`: attempts that failed."""

    def __init__(self, path: Path, fsync: bool, max_attempts: int) -> None:
        self._file, self._max_attempts = JsonLinesFile(path, fsync), max_attempts
        self.numbers = NumberSet(line["prompt"] for line in read_json_lines(path))
        self.failures = 0
        self._failures: Counter[int] = Counter()  # of each prompt that is not done

    def __contains__(self, number: int) -> bool:
        return number in self.numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def record_failure(self, number: int, actor: str, reason: str) -> bool:
        """Count a failure; whether the prompt is given up now, which is then on storage.

        Raises OSError, and does not give it up, when that cannot be written.
        """
        self.failures += 1
        self._failures[number] += 1
        if self._failures[number] < self._max_attempts:
            return False
        self._file.append([{"prompt": number, "actor": actor, "reason": reason}])
        self.numbers.add(number)
        return True

    def forget_failures(self, numbers: Iterable[int]) -> None:
        """These are done: how often they failed decides nothing any more."""
        for number in numbers:
            self._failures.pop(number, None)

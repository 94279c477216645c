"""Prompts given up: after `max_attempts` failures a prompt's place in its batch stays empty.

`quarantined.jsonl` says which, whose attempt was the last, and why. Failures below the limit are not written: a queue
that is opened again counts them anew.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from unisd_rl.storage.jsonl import Journal


class Quarantine:
    """The numbers given up, restored from `path`."""

    def __init__(self, path: Path, fsync: bool, max_attempts: int) -> None:
        self._journal, self._max_attempts = Journal(path, fsync), max_attempts
        self._numbers = {int(str(line["prompt"])) for line in self._journal.restored}
        self._failures: Counter[int] = Counter()

    def __contains__(self, number: int) -> bool:
        return number in self._numbers

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def failures(self) -> int:
        """Attempts that failed."""
        return self._failures.total()

    def failed(self, number: int, actor: str, reason: str) -> bool:
        """Count a failure; whether the prompt is given up now, which is then on storage.

        Raises OSError, and does not give it up, when that cannot be written.
        """
        self._failures[number] += 1
        if self._failures[number] < self._max_attempts:
            return False
        self._journal.append([{"prompt": number, "actor": actor, "reason": reason}])
        self._numbers.add(number)
        return True

"""Which steps count: the learner's lineage and where each one began.

Lineage 0 starts at step 0. When the learner falls back to its checkpoint of step c, a new lineage goes on from step c,
and what older ones did from step c on is undone:

    lineage 0:  0 1 2 3 4 5 6 7
    lineage 1:          4 5 6 7 8 9       fall_back(1, 4)
    lineage 2:                  8 9 10    fall_back(2, 8)
    survive:    0 1 2 3 4 5 6 7 8 9 10    of lineage 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2

The surviving chain has every step once. `lineages.jsonl` holds one line a fall-back, on the disk before it
counts.
"""

from dataclasses import asdict
from pathlib import Path

from unisd_rl.storage.jsonl import Journal
from unisd_rl.storage.lineage import FallBack, step_survives


class FellBack(Exception):
    """The learner fell back while something was waited for on its behalf: nobody wants it any more."""


class Lineages:
    """The fall-backs of a run, restored from `path`."""

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path, fsync=True)
        self._fall_backs = [FallBack(**line) for line in self._journal.restored]  # type: ignore[arg-type]

    @property
    def current(self) -> int:
        """The learner's lineage."""
        return self._fall_backs[-1].lineage if self._fall_backs else 0

    @property
    def steps_lost(self) -> int:
        """Steps undone so far, by all fall-backs."""
        return sum(one.steps_lost for one in self._fall_backs)

    def fall_back(self, lineage: int, step: int, steps_lost: int) -> bool:
        """Record one; False, and nothing is done, when it is the newest one said again.

        Raises ValueError when the lineage does not rise.
        """
        if self._fall_backs and (lineage, step) == (self._fall_backs[-1].lineage, self._fall_backs[-1].step):
            return False
        if lineage <= self.current:
            raise ValueError(f"lineage {lineage} from step {step} does not follow lineage {self.current}: it must rise")
        one = FallBack(lineage, step, steps_lost)
        self._journal.append([asdict(one)])
        self._fall_backs.append(one)
        return True

    def require(self, lineage: int) -> None:
        """Raise FellBack unless `lineage` is the current one."""
        if lineage != self.current:
            raise FellBack(f"the learner went from lineage {lineage} to {self.current}")

    def survives(self, lineage: int, step: int) -> bool:
        """Whether what `lineage` did in `step` has not been undone by a later one."""
        return step_survives(lineage, step, self._fall_backs)

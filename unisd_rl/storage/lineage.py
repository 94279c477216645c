"""Which steps of a run count, after the learner rolled back to a checkpoint (decision 7).

`lineages.jsonl` has one line per rollback, written by the rollout queue before anything is trained in the new lineage:

    lineage 0   steps 0 1 2 3 4 5 |          rollback {"lineage": 1, "step": 4, "steps_lost": 2}
    lineage 1           steps     4 5 6 |    rollback {"lineage": 2, "step": 6, "steps_lost": 1}
    lineage 2                         6 7
    steps that count  0 1 2 3     4 5 6 7
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unisd_rl.storage.jsonl import read_json_lines


@dataclass(frozen=True, slots=True)
class Rollback:
    """The learner's return to a checkpoint: `lineage` began at `step`, and discarded `steps_lost` of the one before."""

    lineage: int
    step: int
    steps_lost: int


def read_rollbacks(path: Path) -> tuple[Rollback, ...]:
    """The rollbacks of a run, in order, from its `lineages.jsonl`; none where there is no file."""
    return tuple(Rollback(**line) for line in read_json_lines(path))


def step_survives(lineage: int, step: int, rollbacks: Sequence[Rollback]) -> bool:
    """Whether the step that `lineage` took from version `step` counts: no later lineage began at or before it."""
    return all(step < later.step for later in rollbacks if later.lineage > lineage)


def version_survives(lineage: int, version: int, rollbacks: Sequence[Rollback]) -> bool:
    """Whether version `version` of `lineage` counts: no later lineage began before it."""
    return all(version <= later.step for later in rollbacks if later.lineage > lineage)

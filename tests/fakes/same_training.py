"""Whether two runs trained the same thing, bit for bit: their steps that count, ledgers, answers and weights."""

import json
from pathlib import Path

import pyarrow as pa

from unisd_rl.transport.rollouts.ledger import Ledger

WHO_AND_WHEN = ("actor", "started_s", "finished_s", "lineages")
"""Columns of a ledger that say who generated a row, when, and after how many rollbacks."""
_MISMATCH = "logprob_mismatch_max"
_LOAD = {"lineage", "actors", "actor_idle", "learner_wait", "actors_wanted", "depth"}
_OF_THE_RUN = ("manifest.json", "run_state.json")  # which lineage a checkpoint is of


def trained(metrics: list[dict], rollbacks: list[dict]) -> list[str]:
    """The lines of the steps that count, in order, without times and load; as text, so that nan equals nan."""
    last = {row["step"]: row for row in metrics}  # a later line of a step supersedes an earlier one
    for fall in rollbacks:
        assert all(row["lineage"] >= fall["lineage"] for row in last.values() if row["step"] >= fall["step"])
    return [
        json.dumps({name: last[step][name] for name in sorted(last[step]) if _counts(name)}) for step in sorted(last)
    ]


def gaps(metrics: list[dict]) -> dict[int, float | None]:
    """How far engine and learner were apart at each step that counts, over the rows of the very version,
    lineage included; None where there was none."""
    return {row["step"]: row[_MISMATCH] for row in metrics}


def rows(run: Path, count: int) -> pa.Table:
    """Prompts 0 to count - 1 of a run's ledger, which has no others."""
    ledger = Ledger(run / "rollouts", fsync=False)
    assert list(ledger.numbers) == list(range(count))
    return ledger.read(range(count)).drop_columns(list(WHO_AND_WHEN)).combine_chunks()


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a checkpoint: weights, float32 masters, optimiser moments, the teacher's average."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if name not in _OF_THE_RUN}


def answers(run: Path) -> dict[str, bytes]:
    """All answers of all evaluations, by file."""
    return {path.name: path.read_bytes() for path in (run / "evaluations").glob("*.jsonl")}


def _counts(name: str) -> bool:
    return name not in _LOAD and not name.startswith("logprob_mismatch_") and not name.endswith("_s")

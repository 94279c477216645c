"""The default job on several seeds, and what its files say came of it.

`python -m benchmarks.arithmetic --json FILE` runs `python -m unisd_rl.run` once a seed (of run and base model) and
recomputes every figure from the run's own records: accuracies from the evaluations' items, staleness and exactly-once
from consumed.jsonl, what each mechanism did from metrics.jsonl. `ratios` holds `accuracy_gain.SEED`, after minus before
(0 to 1).
"""

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.output import finish, machine, result_file, show_table
from unisd_rl.cli import user_path

RUN_TIMEOUT_S = 1200


@dataclass(frozen=True)
class Row:
    """One run. Shares and accuracies from 0 to 1."""

    seed: int
    accuracy_before: float
    accuracy_after: float
    problems: int
    prompts_once: bool
    max_staleness: int
    straddling: int
    clipped_share: float
    weight_mean: float
    weight_below_half: float
    effective_sample_size: float
    contrastive_active_share: float
    teacher_updates: int
    matching_loss_first: float
    matching_loss_last: float
    logprob_mismatch: float
    tokens_per_s: float
    wall_s: float


def read(folder: Path, seed: int) -> Row:
    """Every figure from the run's records; the summary only names the speed."""
    steps, consumed = records(folder / "metrics.jsonl"), records(folder / "consumed.jsonl")
    summary = json.loads((folder / "summary.json").read_text())
    before, after = (records(folder / "evaluations" / f"step-{step}.jsonl") for step in (0, len(steps)))
    quarter = max(1, len(steps) // 4)
    return Row(
        seed=seed,
        accuracy_before=accuracy(before),
        accuracy_after=accuracy(after),
        problems=len({answer["id"] for answer in after}),
        prompts_once=[row["prompt"] for row in consumed] == list(range(len(consumed))),
        max_staleness=max(row["step"] - row["oldest"] for row in consumed),
        straddling=sum(row["oldest"] < row["newest"] for row in consumed),
        clipped_share=mean(steps, "clipped_share"),
        weight_mean=mean(steps, "weight_mean"),
        weight_below_half=mean(steps, "weight_below_half"),
        effective_sample_size=mean(steps, "effective_sample_size"),
        contrastive_active_share=mean(steps, "contrastive_active_share"),
        teacher_updates=sum(step["teacher_update_norm"] > 0 for step in steps),
        matching_loss_first=mean(steps[:quarter], "matching_loss"),
        matching_loss_last=mean(steps[-quarter:], "matching_loss"),
        logprob_mismatch=max(step["logprob_mismatch_max"] or 0.0 for step in steps),
        tokens_per_s=summary["tokens_per_s"],
        wall_s=summary["wall_s"],
    )


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def accuracy(answers: list[dict[str, Any]]) -> float:
    return sum(answer["correct"] for answer in answers) / len(answers)


def mean(steps: list[dict[str, Any]], name: str) -> float:
    return statistics.mean(step[name] for step in steps)


def show(rows: list[Row]) -> None:
    names = [field.name for field in fields(Row) if field.name != "seed"]
    lines = [(name, *(asdict(row)[name] for row in rows)) for name in names]
    show_table("the default job", ("", *(f"seed {row.seed}" for row in rows)), lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=user_path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--read-only", action="store_true", help="read runs that are there already")
    parser.add_argument("--json", type=result_file, help="write machine, rows and ratios to this file")
    parser.add_argument("--quick", action="store_true", help="the first seed alone, two steps")
    options = parser.parse_args()
    short = ("--run.steps", "2", "--task.eval_examples", "16") if options.quick else ()
    seeds = options.seeds[:1] if options.quick else options.seeds
    found_on = machine()
    for seed in [] if options.read_only else seeds:
        name = ("--run.dir", str(options.runs), "--run.name", f"arithmetic-{seed}")
        own = ("--run.seed", str(seed), "--model.base_seed", str(seed))
        command = [sys.executable, "-m", "unisd_rl.run", *name, *own, *short]
        subprocess.run(command, check=True, timeout=RUN_TIMEOUT_S)
    rows = [read(options.runs / f"arithmetic-{seed}", seed) for seed in seeds]
    show(rows)
    gains = {f"accuracy_gain.{row.seed}": row.accuracy_after - row.accuracy_before for row in rows}
    finish(found_on, [asdict(row) for row in rows], gains, options.json)


if __name__ == "__main__":
    main()

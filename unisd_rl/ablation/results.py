"""The results of a grid: one row of a Parquet file for each finished run, with all that the report needs.

The file is rewritten as a whole for each row (`atomic_write`), so a kill at any moment loses the runs that were under
way and nothing else. It may be kept in a repository, and be gone on with on another machine: rows say where they were
made.
"""

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import fsum
from pathlib import Path
from statistics import fmean

import pyarrow as pa
import pyarrow.parquet as pq

from unisd_rl.ablation.grid import Cell
from unisd_rl.errors import RunFailed, UserError
from unisd_rl.reporting.record import RecordedEvaluation, RunRecord
from unisd_rl.storage.files import atomic_write, raise_write_error

SCHEMA = pa.schema(
    {
        "row": pa.string(),
        "task": pa.string(),
        "wrong_demonstrations": pa.float64(),
        "seed": pa.int64(),
        "settings": pa.string(),
        "steps": pa.list_(pa.int32()),
        "accuracies": pa.list_(pa.float64()),
        "base_accuracy": pa.float64(),
        "problems": pa.list_(pa.string()),
        "scores": pa.list_(pa.float64()),
        "base_scores": pa.list_(pa.float64()),
        "out_of_domain": pa.float64(),
        "ppl_fit": pa.float64(),
        "ppl_ret": pa.float64(),
        "jsd": pa.float64(),
        "generated_tokens": pa.int64(),
        "trained_tokens": pa.int64(),
        "staleness": pa.float64(),
        "seconds": pa.float64(),
        "cpu_seconds": pa.float64(),
        "peak_mib": pa.float64(),
        "trials": pa.int32(),
        "machine": pa.string(),
        "finished": pa.string(),
    }
)


@dataclass(frozen=True, slots=True)
class Result:
    """One finished run. `accuracies` are those after `steps`; `scores` the mean of each problem over them, in the order
    of `problems`; `base_*` those of the initial model; `staleness` the mean over steps of the mean over tokens. Not
    measured: None."""

    row: str
    task: str
    wrong_demonstrations: float
    seed: int
    settings: str
    steps: Sequence[int]
    accuracies: Sequence[float]
    base_accuracy: float
    problems: Sequence[str]
    scores: Sequence[float]
    base_scores: Sequence[float]
    out_of_domain: float | None
    ppl_fit: float | None
    ppl_ret: float | None
    jsd: float | None
    generated_tokens: int
    trained_tokens: int
    staleness: float | None
    seconds: float
    cpu_seconds: float
    peak_mib: float
    trials: int
    machine: str
    finished: str

    @property
    def cell(self) -> Cell:
        """The run of the grid that it is."""
        return Cell(self.row, self.task, self.wrong_demonstrations, self.seed)

    @property
    def mean_accuracy(self) -> float:
        """The primary measure: the mean over the evaluations after a step."""
        return fsum(self.accuracies) / len(self.accuracies)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took, evaluations included: seconds, those of a core that computed, and the largest resident memory of
    its process (MiB). Of a run whose processes are Ray's, the driver's alone."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


def read_results(path: Path) -> list[Result]:
    """All rows; none where there is no file yet.

    Raises:
        UserError: it is no file of results.
    """
    if not path.exists():
        return []
    try:
        table = pq.read_table(path, schema=SCHEMA)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} is no file of results ({error}); move it away, or name another with --out") from None
    return [Result(**row) for row in table.to_pylist()]


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write the file anew.

    Raises:
        WriteError: the disk does not take it. What was there before still is.
    """
    table = pa.Table.from_pylist([asdict(result) for result in results], SCHEMA)
    with raise_write_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            pq.write_table(table, partial)


def result_of(
    cell: Cell,
    settings: str,
    run: RunRecord,
    out_of_domain: float | None,
    cost: Cost,
    trials: int,
    checkpoints: Sequence[RecordedEvaluation] = (),
) -> Result:
    """What a finished run has to say; `checkpoints` are the evaluations that were made after it.

    Raises:
        RunFailed: it has no evaluation after a step.
    """
    evaluations = sorted([*run.evaluations, *checkpoints], key=lambda evaluation: evaluation.step)
    if len(evaluations) < 2:
        raise RunFailed(f"{run.path} has no evaluation after a step")
    first, *later = evaluations
    base, scores = first.scores(), [evaluation.scores() for evaluation in later]
    problems = sorted(base)
    trained = [(row["tokens"], row.get("staleness_mean")) for row in run.iter_rows()]
    staleness = [mean for _, mean in trained if mean is not None]
    retention: Mapping[str, float] = later[-1].numbers.get("retention") or {}
    return Result(
        row=cell.row,
        task=cell.task,
        wrong_demonstrations=cell.wrong_demonstrations,
        seed=cell.seed,
        settings=settings,
        steps=[evaluation.step for evaluation in later],
        accuracies=[_accuracy(evaluation) for evaluation in later],
        base_accuracy=_accuracy(first),
        problems=problems,
        scores=[fsum(each[problem] for each in scores) / len(scores) for problem in problems],
        base_scores=[base[problem] for problem in problems],
        out_of_domain=out_of_domain,
        ppl_fit=retention.get("ppl_fit"),
        ppl_ret=retention.get("ppl_ret"),
        jsd=retention.get("jsd"),
        generated_tokens=run.summary.get("queue", {}).get("tokens", 0),  # a replay has no queue
        trained_tokens=sum(tokens for tokens, _ in trained),
        staleness=fmean(staleness) if staleness else None,
        seconds=cost.seconds,
        cpu_seconds=cost.cpu_seconds,
        peak_mib=cost.peak_mib,
        trials=trials,
        machine=machine(),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def checkpoint_evaluations(folder: Path, steps: Sequence[int]) -> list[RecordedEvaluation]:
    """What the command `evaluate` found of the checkpoints of these steps, its models in this order."""
    content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    evaluations = []
    for place, (step, numbers) in enumerate(zip(steps, content["results"], strict=True)):
        (file,) = (folder / "answers").glob(f"model-{place}-*.jsonl")
        evaluations.append(RecordedEvaluation(step, numbers, file))
    return evaluations


def machine() -> str:
    """The processor of this machine and the number of its cores."""
    import psutil

    model = platform.processor() or platform.machine()
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {psutil.cpu_count()} cores"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _accuracy(evaluation: RecordedEvaluation) -> float:
    return float(evaluation.numbers["accuracy"])

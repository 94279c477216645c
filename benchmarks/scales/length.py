"""One queue through a long run, in one process and without Ray: does a rollout cost more late than early?

    admit, lease -> 64 commits of a small row each, at once -> take, report     one step; and again, to 10^6 rollouts

At each length of `--length` the last 1,024 rollouts are committed one by one, each commit waited for. Measured there:
the median times of a commit, a take and a report, the memory of the process, the files of the ledger; and in another
process, how long it takes to open the queue again. `length.{commit, take, report}` are the times at the last length
over those at the first, `length.memory_mib` what the memory grew by in between, `length.files` and `length.reopen_s`
those of the last.
"""

import argparse
import asyncio
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from benchmarks.output import show_table
from benchmarks.scales.rows import prompts, rollout
from unisd_rl.config.rollout import RolloutConfig
from unisd_rl.transport.rollouts.queue import RolloutQueue
from unisd_rl.transport.rollouts.schema import encode
from unisd_rl.types import NumberedPrompt, PolicyVersion

BATCH, WINDOW, ROW_BYTES = 64, 16, 256  # prompts a step; steps of a window; see `rollout`


@dataclass(frozen=True)
class LengthRow:
    """Medians over the steps before `rollouts` were done, and what there was then; `seconds` since the row before."""

    rollouts: int
    commit_ms: float
    take_ms: float
    report_ms: float
    memory_mib: float
    files: int
    reopen_s: float
    seconds: float


def length(options: argparse.Namespace) -> tuple[list[dict[str, object]], dict[str, float]]:
    """All rows, of one run, and their ratios."""
    with (
        tempfile.TemporaryDirectory(dir=options.folder, ignore_cleanup_errors=True) as folder,
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh,  # its memory is that of the run alone
    ):
        rows = fresh.submit(run, Path(folder), sorted(options.length)).result()
    names = [field.name for field in fields(LengthRow)]
    show_table("one queue through a long run", names, [[getattr(row, name) for name in names] for row in rows])
    first, last = rows[0], rows[-1]
    ratios = {f"length.{call}": getattr(last, f"{call}_ms") / getattr(first, f"{call}_ms") for call in CALLS}
    grown = {"length.memory_mib": last.memory_mib - first.memory_mib}
    return [asdict(row) for row in rows], ratios | grown | {
        "length.files": last.files,
        "length.reopen_s": last.reopen_s,
    }


CALLS = ("commit", "take", "report")


def run(folder: Path, lengths: Sequence[int]) -> list[LengthRow]:
    """One run to the last length."""
    return asyncio.run(_run(folder, lengths))


async def _run(folder: Path, lengths: Sequence[int]) -> list[LengthRow]:
    queue, rows, done = _open(folder), [], 0
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("length", total=lengths[-1])
        for rollouts in lengths:
            started = time.perf_counter()
            times: dict[str, list[float]] = {call: [] for call in CALLS}
            for step in range(done, rollouts // BATCH):
                await _step(queue, step, times if step >= rollouts // BATCH - WINDOW else None)
                progress.advance(bar, BATCH)
            done = rollouts // BATCH
            medians = {f"{call}_ms": 1e3 * statistics.median(times[call]) for call in CALLS}
            seconds, memory_mib = time.perf_counter() - started, _memory_mib()
            rows.append(LengthRow(rollouts, **medians, memory_mib=memory_mib, files=_files(folder),
                                  reopen_s=_reopen_s(folder), seconds=seconds))  # fmt: skip
    return rows


async def _step(queue: RolloutQueue, step: int, times: dict[str, list[float]] | None) -> None:
    """One step; with `times`, its calls are timed and made one by one."""
    numbered = prompts(step * BATCH, (step + 1) * BATCH)
    await queue.admit(numbered)
    await queue.lease("actor", PolicyVersion(0, step), BATCH, 1.0)
    if times is None:
        await asyncio.gather(*(queue.commit("actor", _encoded(prompt, step)) for prompt in numbered))
        await queue.take(step, 1, 60.0)
        await queue.report()
        return
    for prompt in numbered:
        data, started = _encoded(prompt, step), time.perf_counter()
        await queue.commit("actor", data)
        times["commit"].append(time.perf_counter() - started)
    for name, call in (("take", lambda: queue.take(step, 1, 60.0)), ("report", queue.report)):
        started = time.perf_counter()
        await call()
        times[name].append(time.perf_counter() - started)


def _encoded(prompt: NumberedPrompt, version: int) -> bytes:
    return encode([rollout(prompt, version, "actor", ROW_BYTES)]).to_pybytes()


def _open(folder: Path) -> RolloutQueue:
    return RolloutQueue(folder, BATCH, RolloutConfig(max_staleness=0))


def _reopen_s(folder: Path) -> float:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        return fresh.submit(_opened_in_s, folder).result()


def _opened_in_s(folder: Path) -> float:
    started = time.perf_counter()
    _open(folder)
    return time.perf_counter() - started


def _memory_mib() -> float:
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * 4096 / 2**20


def _files(folder: Path) -> int:
    return sum(path.is_file() for path in (folder / "rollouts").rglob("*"))

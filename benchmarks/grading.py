"""Programs graded in the sandbox against the same programs run bare, in the same parallelism.

`python -m benchmarks.grading --json FILE` runs 1,000 small programs with their tests: in the sandbox, its start
included, and each in a fresh `python -I -S`, the cheapest interpreter there is, with no isolation, no limits and no
verdict but the exit status. The two alternate, and medians of `--repeats` are reported. `grading_vs_bare` is the ratio
of the two times, `cpu_vs_bare` of the computing done, which depends less on what else the machine does; `speedup` is
what all cores gain over one. With `--data mbpp.jsonl` the programs are MBPP's own.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.progress import Progress

from benchmarks.output import finish, machine, result_file, show_table
from unisd_rl.cli import user_path
from unisd_rl.tasks import mbpp
from unisd_rl.tasks.benchmark_data import from_file
from unisd_rl.tasks.programs import trial
from unisd_rl.tasks.sandbox.limits import Trial
from unisd_rl.tasks.sandbox.pool import Sandbox

PROGRAM_TIMEOUT_S = 60
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Row:
    """Seconds for all programs, on the clock and of computing: medians of the repetitions. `passed` are right."""

    way: str
    programs: int
    parallel: int
    passed: int
    median_s: float
    median_cpu_s: float
    all_s: list[float]


def generated(count: int) -> list[Trial]:
    """Programs of the size that MBPP has, every other one right; about a millisecond of work each."""
    programs = [
        ("def f(n):\n    return [p for p in range(2, n) if all(p % d for d in range(2, p))]", "len(f(90)) == 24"),
        (
            "def f(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a",
            "f(900) % 1000 == 800",
        ),
        ("import re\ndef f(n):\n    return re.findall(r'\\d+', 'a1b22' * n)", "len(f(500)) == 1000"),
        ("from collections import Counter\ndef f(n):\n    return Counter(i % 7 for i in range(n))", "f(700)[3] == 100"),
    ]
    return [
        Trial(program if number % 2 else program + " + 1", "", ("f",), f"assert {test}\nassert f(1) == f(1)")
        for number in range(count)
        for program, test in [programs[number // 2 % len(programs)]]
    ]


def sandboxed(trials: list[Trial], parallel: int) -> int:
    """How many pass in the sandbox."""
    sandbox = Sandbox(slots=parallel)
    try:
        with ThreadPoolExecutor(parallel) as threads:
            return sum(verdict.passed for verdict in threads.map(sandbox.judge, trials))
    finally:
        sandbox.close()


def bare(trials: list[Trial], parallel: int) -> int:
    """How many exit with 0, each in a fresh interpreter."""

    def passes(one: Trial) -> bool:
        command = [sys.executable, "-I", "-S", "-B", "-c", f"{one.program}\n{one.setup}\n{one.tests}\n"]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.run(command, timeout=PROGRAM_TIMEOUT_S, check=False, **quiet).returncode == 0

    with ThreadPoolExecutor(parallel) as threads:
        return sum(threads.map(passes, trials))


WAYS: dict[str, tuple[Callable[[list[Trial], int], int], int]] = {
    "bare": (bare, CORES),
    "sandbox": (sandboxed, CORES),
    "sandbox, one slot": (sandboxed, 1),
}


def measure(trials: list[Trial], repeats: int) -> list[Row]:
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    computing: dict[str, list[float]] = {way: [] for way in WAYS}
    passed: dict[str, set[int]] = {way: set() for way in WAYS}
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("grading", total=repeats * len(WAYS))
        for _ in range(repeats):
            for way, (run, parallel) in WAYS.items():
                started, computed = time.perf_counter(), cpu_s()
                passed[way].add(run(trials, parallel))
                times[way].append(time.perf_counter() - started)
                computing[way].append(cpu_s() - computed)
                progress.advance(bar)
    assert len(set.union(*passed.values())) == 1, f"the ways disagree on what passes: {passed}"
    return [
        Row(way, len(trials), parallel, *passed[way], *map(statistics.median, (times[way], computing[way])), times[way])
        for way, (_, parallel) in WAYS.items()
    ]


def cpu_s() -> float:
    """Seconds of computing of this process and of all that have ended below it."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def ratios(rows: list[Row]) -> dict[str, float]:
    median = {row.way: row.median_s for row in rows}
    computing = {row.way: row.median_cpu_s for row in rows}
    return {
        "grading_vs_bare": median["sandbox"] / median["bare"],
        "cpu_vs_bare": computing["sandbox"] / computing["bare"],
        "speedup": median["sandbox, one slot"] / median["sandbox"],
    }


def show(rows: list[Row]) -> None:
    columns = ("way", "programs", "at a time", "passed", "seconds (median)", "cores busy")
    lines = [(r.way, r.programs, r.parallel, r.passed, r.median_s, r.median_cpu_s / r.median_s) for r in rows]
    show_table("grading programs", columns, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="100 programs, 3 repetitions")
    parser.add_argument("--data", type=user_path, help="mbpp.jsonl of the data set: run its reference programs instead")
    parser.add_argument("--json", type=result_file, help="write machine, rows and ratios to this file")
    options = parser.parse_args()
    count, repeats = (100, 3) if options.quick else (options.programs, options.repeats)
    trials = generated(count)
    if options.data:
        examples = [mbpp.to_example(record, "full") for record in from_file(options.data)][:count]
        trials = [trial(example.demonstration, example) for example in examples]
    found_on = machine()
    rows = measure(trials, repeats)
    show(rows)
    finish(found_on, [asdict(row) for row in rows], ratios(rows), options.json)


if __name__ == "__main__":
    main()

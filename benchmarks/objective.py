"""The chunked objective against plain dense torch: time and peak memory, side by side in one run.

`python -m benchmarks.objective --json FILE` measures forward plus backward, with the gradient of the hidden states and
of the head, for the three divergences. Every measurement is a fresh process, since peak memory (ru_maxrss) never falls;
dense and chunked runs alternate, and the median of `--repeats` is reported. Peak memory is what comes on top of the
inputs. `share_of_matmul_rate` compares with the bare four matrix products at the speed that one product of all tokens
reaches in the same process: 1 would mean that everything else is free.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from unisd_rl.objective.chunked import scored_tokens
from unisd_rl.objective.head import Head
from unisd_rl.objective.settings import ObjectiveSettings
from unisd_rl.objective.terms import TokenTerms

DIVERGENCES = {"fkl": 0.0, "jsd": 0.5, "rkl": 1.0}
KINDS = ("dense", "chunked")
PROCESS_TIMEOUT_S = 1800


@dataclass(frozen=True)
class Size:
    tokens: int
    hidden: int
    vocabulary: int
    chunk_tokens: int
    threads: int


@dataclass(frozen=True)
class Row:
    divergence: str
    kind: str
    seconds: float
    peak_mib: float
    matmul_share: float


def measure(kind: str, divergence: str, size: Size) -> Row:
    """One forward and backward pass in this process, which must be a fresh one."""
    torch.set_num_threads(size.threads)
    torch.manual_seed(0)
    run_pass = {"dense": dense_pass, "chunked": chunked_pass}[kind]
    warm = Size(8, 16, 64, 4, size.threads)
    run_pass(inputs_of(warm), DIVERGENCES[divergence], warm)
    inputs = inputs_of(size)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    run_pass(inputs, DIVERGENCES[divergence], size)
    seconds = time.perf_counter() - begin
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    product_s = min(product_seconds(*inputs[:2]) for _ in range(3))
    return Row(divergence, kind, seconds, peak_kib / 1024, 4 * product_s / seconds)


@torch.no_grad()
def product_seconds(student_NH: Tensor, weight_VH: Tensor) -> float:
    logits_NV = torch.zeros(len(student_NH), len(weight_VH))  # pages touched before the clock starts
    begin = time.perf_counter()
    torch.mm(student_NH, weight_VH.t(), out=logits_NV)
    return time.perf_counter() - begin


def inputs_of(size: Size) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Student and teacher states [N, H] and heads [V, H] (float32), and targets [N]."""
    scale = size.hidden**-0.5
    student_NH = torch.randn(size.tokens, size.hidden, requires_grad=True)
    weight_VH = torch.empty(size.vocabulary, size.hidden).normal_(std=2 * scale).requires_grad_()
    teacher_NH = student_NH.detach() + 0.1 * torch.randn(size.tokens, size.hidden)
    teacher_weight_VH = torch.empty(size.vocabulary, size.hidden).normal_(std=2 * scale)
    return student_NH, weight_VH, teacher_NH, teacher_weight_VH, torch.randint(size.vocabulary, (size.tokens,))


def dense_pass(inputs: tuple[Tensor, ...], alpha: float, size: Size) -> None:
    """What one writes first: two [N, V] log-softmaxes, the formula, autograd."""
    student_NH, weight_VH, teacher_NH, teacher_weight_VH, _ = inputs
    student_NV = torch.log_softmax(student_NH @ weight_VH.t(), -1)
    with torch.no_grad():
        teacher_NV = torch.log_softmax(teacher_NH @ teacher_weight_VH.t(), -1)

    def kl(left_NV: Tensor, right_NV: Tensor) -> Tensor:
        return (left_NV.exp() * (left_NV - right_NV)).sum(-1)

    if alpha == 0.0:
        divergence_N = kl(teacher_NV, student_NV)
    elif alpha == 1.0:
        divergence_N = kl(student_NV, teacher_NV)
    else:
        mixture_NV = ((1 - alpha) * student_NV.exp() + alpha * teacher_NV.exp()).log()
        divergence_N = alpha * kl(teacher_NV, mixture_NV) + (1 - alpha) * kl(student_NV, mixture_NV)
    divergence_N.mean().backward()


def chunked_pass(inputs: tuple[Tensor, ...], alpha: float, size: Size) -> None:
    student_NH, weight_VH, teacher_NH, teacher_weight_VH, targets_N = inputs
    zeros_N = torch.zeros(len(targets_N))
    terms = TokenTerms(zeros_N + 1.0 / len(targets_N), zeros_N, zeros_N, zeros_N, zeros_N, zeros_N, None, None)
    settings = ObjectiveSettings(1.0, alpha, None, None, None, None, None, size.chunk_tokens)
    scored = scored_tokens(student_NH, Head(weight_VH), teacher_NH, Head(teacher_weight_VH), targets_N, terms, settings)
    scored.loss.backward()


def measure_in_fresh_process(kind: str, divergence: str, size: Size) -> Row:
    command = [
        sys.executable,
        "-m",
        "benchmarks.objective",
        "--one",
        kind,
        divergence,
        *map(str, asdict(size).values()),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PROCESS_TIMEOUT_S,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": str(size.threads)},
    )
    return Row(**json.loads(done.stdout.splitlines()[-1]))


def measure_all(size: Size, repeats: int) -> list[Row]:
    """The median of each cell; dense and chunked take turns, so that a busy spell of the machine meets both."""
    rows = []
    with Progress() as progress:
        task = progress.add_task("measuring", total=len(DIVERGENCES) * len(KINDS) * repeats)
        for divergence in DIVERGENCES:
            found: dict[str, list[Row]] = {kind: [] for kind in KINDS}
            for _ in range(repeats):
                for kind in KINDS:
                    found[kind].append(measure_in_fresh_process(kind, divergence, size))
                    progress.advance(task)
            for kind in KINDS:
                medians = (
                    statistics.median(vars(row)[name] for row in found[kind])
                    for name in ("seconds", "peak_mib", "matmul_share")
                )
                rows.append(Row(divergence, kind, *medians))
    return rows


def ratios_of(rows: list[Row]) -> dict[str, float]:
    cells = {(row.divergence, row.kind): row for row in rows}
    ratios = {}
    for name in DIVERGENCES:
        dense, chunked = cells[name, "dense"], cells[name, "chunked"]
        ratios[f"time_vs_dense.{name}"] = chunked.seconds / dense.seconds
        ratios[f"memory_vs_dense.{name}"] = chunked.peak_mib / dense.peak_mib
        ratios[f"share_of_matmul_rate.{name}"] = chunked.matmul_share
    return ratios


def show(rows: list[Row], ratios: dict[str, float], size: Size) -> None:
    title = f"{size.tokens} tokens x {size.hidden} hidden x {size.vocabulary} vocabulary, {size.threads} threads"
    table = Table("divergence", "kind", "seconds", "peak MiB above inputs", "share of matmul rate", title=title)
    for row in rows:
        table.add_row(row.divergence, row.kind, f"{row.seconds:.2f}", f"{row.peak_mib:.0f}", f"{row.matmul_share:.2f}")
    Console().print(table)
    for name, ratio in ratios.items():
        Console().print(f"{name} {ratio:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write machine, rows and ratios to this file")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--chunk-tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        kind, divergence, *numbers = arguments.one
        print(json.dumps(asdict(measure(kind, divergence, Size(*map(int, numbers))))))
        return
    size = Size(arguments.tokens, arguments.hidden, arguments.vocabulary, arguments.chunk_tokens, arguments.threads)
    rows = measure_all(size, arguments.repeats)
    ratios = ratios_of(rows)
    show(rows, ratios, size)
    if arguments.json:
        machine = {"platform": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()}
        found = {"machine": machine | asdict(size), "rows": [asdict(row) for row in rows], "ratios": ratios}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

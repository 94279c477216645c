"""The chunked objective beside plain dense torch and TRL (on a GPU also Liger): time, memory, errors, in one run.

`python -m benchmarks.objective --json FILE` measures forward plus backward, with the gradients of the hidden states and
of the head, clip and token weights on, for forward KL, Jensen-Shannon divergence and reverse KL; then how ours grows
with the number of tokens, and the whole learner step. How each figure is taken: benchmarks/divergences/measure.py.

Ratios: `time_vs_dense.*`, `time_vs_trl.*`, `time_vs_liger.*` and `memory_vs_dense.*` are ours over theirs; memory is
what comes beyond the inputs and the returned gradients. `share_of_matmul_rate.*` is the time of four bare products of
all tokens with the head, at the rate of one measured in the same rounds, over our time. `error_vs_dense.*` is the
largest ratio of our error against float64 to the dense formula's, over divergences and both gradients.
"""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, replace
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from benchmarks.divergences.contenders import ALPHAS, Size
from benchmarks.divergences.measure import Request
from benchmarks.learner_step import show_step, step_rows
from benchmarks.output import finish, machine, result_file, screen, show_table

PROCESS_TIMEOUT_S = 3600
PARTS = ("time", "memory", "error", "growth", "step")
Row = dict[str, Any]


def default_size(quick: bool) -> Size:
    if quick:
        return Size(24, 16, 400, 8, 1, "cpu", "float32")
    if torch.cuda.is_available():
        return Size(8192, 3584, 151_936, 1024, os.cpu_count() or 1, "cuda", "bfloat16")
    return Size(1024, 1024, 151_936, 128, os.cpu_count() or 1, "cpu", "float32")


def contenders(size: Size) -> list[str]:
    names = ["dense", "ours"]
    modules = (("trl", "trl.kernels.chunked_divergence", False), ("liger", "liger_kernel.transformers", True))
    for name, module, needs_gpu in modules:
        if needs_gpu and size.device != "cuda":
            screen().print(f"{name} is left out: its kernels need a GPU")
            continue
        try:
            importlib.import_module(module)
        except Exception as error:  # it may be missing, or not go together with what is installed
            screen().print(f"{name} is left out: {module} cannot be imported ({error})")
        else:
            names.append(name)
    return names


def measured(requests: list[Request]) -> list[list[Row]]:
    """The rows of each request, from one fresh process."""
    command = [sys.executable, "-m", "benchmarks.divergences.measure", *(request.as_json() for request in requests)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(requests[0].size.threads)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROCESS_TIMEOUT_S, env=environment)
    if done.returncode:
        sys.exit(f"a measurement failed: {' '.join(command)}\n{done.stderr}")
    found: list[list[Row]] = json.loads(done.stdout.splitlines()[-1])
    return found


def requests(size: Size, names: list[str], repeats: int, quick: bool) -> list[tuple[str, Request]]:
    """What is measured, in order; the first word becomes the row's `measure`."""
    divergences = list(ALPHAS)
    found = [("time", Request("time", size, names, divergences, repeats))]
    for divergence in divergences:
        found += [("memory", Request("memory", size, [name], [divergence], 1)) for name in names]
    few = replace(size, tokens=min(64, size.tokens))
    told = [name for name in names if name != "liger"]  # its loss is another mean
    found.append(("error", Request("error", few, told, divergences, 1)))
    for tokens in (16, 32) if quick else (256, 512, 1024, 2048, 4096):
        found.append(("growth", Request("memory", replace(size, tokens=tokens), ["ours"], ["jsd"], 1)))
    return found


def measure_all(size: Size, names: list[str], repeats: int, quick: bool, parts: list[str]) -> list[Row]:
    """Each request in a process of its own, so that no memory is left over from another; all in one if quick."""
    wanted = [(kind, request) for kind, request in requests(size, names, repeats, quick) if kind in parts]
    groups = [[request] for request in wanted] if not quick else [wanted] if wanted else []
    rows = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("measuring", total=len(groups))
        for group in groups:
            found = measured([request for _, request in group])
            for (kind, _), some in zip(group, found, strict=True):
                rows += [{"measure": kind, **row} for row in some]
            progress.advance(task)
    return rows


def ratios_of(rows: list[Row]) -> dict[str, float]:
    cells = {(row["measure"], row["contender"], row["divergence"]): row for row in rows if row["measure"] != "growth"}
    measured_parts, ratios = {measure for measure, _, _ in cells}, {}
    for name in ALPHAS:
        if "time" in measured_parts:
            ours = cells["time", "ours", name]["seconds"]
            for other in ("dense", "trl", "liger"):
                if ("time", other, name) in cells:
                    ratios[f"time_vs_{other}.{name}"] = ours / cells["time", other, name]["seconds"]
            ratios[f"share_of_matmul_rate.{name}"] = 4 * cells["time", "product", ""]["seconds"] / ours
        if "memory" in measured_parts:
            memory = [cells["memory", kind, name]["peak_mib"] for kind in ("ours", "dense")]
            ratios[f"memory_vs_dense.{name}"] = memory[0] / max(memory[1], 1e-9)
        if "error" in measured_parts:
            left, right = (cells["error", kind, name] for kind in ("ours", "dense"))
            kinds = ("divergence_error", "hidden_error", "weight_error")
            ratios[f"error_vs_dense.{name}"] = max(left[kind] / right[kind] for kind in kinds)
    return ratios


def show(rows: list[Row], step: list[Row], size: Size) -> None:
    """One line a contender and divergence, then how ours grows with the tokens, then the whole learner step."""
    cells = {(row["measure"], row["contender"], row["divergence"]): row for row in rows if row["measure"] != "growth"}
    kinds = ("divergence_error", "hidden_error", "weight_error")
    lines = []
    for (measure, contender, divergence), row in cells.items():
        if measure == "time":
            peak = cells.get(("memory", contender, divergence), {}).get("peak_mib")
            errors = cells.get(("error", contender, divergence), {})
            lines.append((divergence, contender, row["seconds"], peak, *(errors.get(kind) for kind in kinds)))
    title = f"{size.tokens} tokens x {size.hidden} hidden x {size.vocabulary} vocabulary, {size.dtype}, {size.device}"
    show_table(title, ("divergence", "contender", "seconds", "peak MiB", *(k.replace("_", " ") for k in kinds)), lines)
    growth = [(row["tokens"], row["seconds"], row["peak_mib"]) for row in rows if row["measure"] == "growth"]
    if growth:
        show_table("ours, JSD, more tokens", ("tokens", "seconds", "peak MiB"), growth)
    if step:
        show_step(step)


def machine_of(size: Size) -> dict[str, Any]:
    """The machine, the device that computes, and the size."""
    name = torch.cuda.get_device_name() if size.device == "cuda" else platform.processor() or platform.machine()
    return machine(device_name=name, torch=torch.__version__, **asdict(size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=result_file, help="write machine, rows and ratios to this file")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: does it run at all")
    for name in ("tokens", "hidden", "vocabulary", "chunk_tokens", "threads"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int)
    parser.add_argument("--repeats", type=int, help="rounds of the time measurement (default 3)")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=list(PARTS), help=f"parts to measure, of {','.join(PARTS)}"
    )
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.only) - set(PARTS)):
        parser.error(f"--only {','.join(unknown)}: the parts are {', '.join(PARTS)}")
    size = default_size(arguments.quick)
    given = {name: getattr(arguments, name) for name in asdict(size) if getattr(arguments, name, None) is not None}
    size = replace(size, **given)
    found_on = machine_of(size)
    repeats = arguments.repeats or (1 if arguments.quick else 3)
    rows = measure_all(size, contenders(size), repeats, arguments.quick, arguments.only)
    ratios = ratios_of(rows)
    step, step_ratios = step_rows(arguments.quick) if "step" in arguments.only else ([], {})
    show(rows, step, size)
    steps = [{"measure": "step", **row} for row in step]
    finish(found_on, [*rows, *steps], ratios | step_ratios, arguments.json)


if __name__ == "__main__":
    main()

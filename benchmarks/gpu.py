"""What needs a GPU, in one run of at most seven minutes: tests, the objective, the layouts of a step, a 7B step.

`benchmarks/gpu.sh` starts it on a machine that lacks packages; `python -m benchmarks.gpu --json FILE` does elsewhere.
Each part is a process of its own with a limit on its time; what one does not reach is said, and the others go on:

- `tests`: `tests/gpu`;
- `objective`: forward and backward of 8,192 tokens x 3,584 x 151,936 in bfloat16 beside dense torch and, where they are
  installed, Liger and TRL (`benchmarks.objective`); the share of the card's matrix rate is four products with the head
  at the rate of one product of two large squares, over the time;
- `layouts`: steps of UniSD* (K = 3) on Qwen2.5-1.5B's sizes with an adapter: padded, packed, tree (`benchmarks.trees`);
- `step_7b`: the same on Qwen2.5-7B's sizes, in the tree.

Where there is no GPU every part runs at a tiny size, which shows that it runs.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.output import finish, machine, result_file, show_table

ROOT = Path(__file__).parents[1]
SQUARE = {"cuda": 8192, "cpu": 512}
PRODUCTS = 4
"""With the head: the logits of student and teacher, the gradient of the hidden states and that of the head."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One process: `python -m` and these words."""

    name: str
    words: list[str]
    limit_s: int
    writes_json: bool = True


@dataclass(frozen=True)
class Outcome:
    """What became of a part."""

    note: str
    seconds: float
    machine: Row
    rows: list[Row]


def parts_for(device: str, tiny: bool) -> list[Part]:
    """All parts; their limits are seven minutes together."""
    step = ["benchmarks.trees", "--device", device, "--lora", "64", "--records", "tool_use", "--cases", "g1,g4"]
    objective = ["benchmarks.objective", "--only", "time,memory"]
    if tiny:
        models = [["--quick"], ["--quick"]]
        objective.append("--quick")
    else:
        step += ["--answers", "16", "--longest-answer", "256", "--gradient-tokens", "16384"]
        models = [["--models", "qwen2.5-1.5b"], ["--models", "qwen2.5-7b", "--rounds", "2"]]
    # Most of their time compiles kernels on the CPU.
    side_by_side = ["-n", "4"] if device == "cuda" and find_spec("xdist") else []
    return [
        Part("tests", ["pytest", "-q", "-p", "no:cacheprovider", *side_by_side, "tests/gpu"], 110, writes_json=False),
        Part("objective", objective, 80),
        Part("layouts", [*step, *models[0], "--layouts", "packed,tree,padded"], 120),
        Part("step_7b", [*step, *models[1], "--layouts", "tree"], 110),
    ]


def run(part: Part, folder: Path) -> Outcome:
    """Run it to its end or its limit; what it printed goes to the screen."""
    target, log = folder / f"{part.name}.json", folder / f"{part.name}.log"
    words = [*part.words, f"--json={target}"] if part.writes_json else part.words
    started, note = time.perf_counter(), ""
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            if code := process.wait(part.limit_s):
                note = f"ended with {code}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
            process.wait()
            note = f"not done after {part.limit_s} s"
    seconds, text = time.perf_counter() - started, log.read_text(errors="replace").strip()
    print(f"== {part.name}: {' '.join(words)}\n{text}", flush=True)
    if not part.writes_json and not note:
        # The libraries of a GPU may say more after pytest's summary.
        note = next((line for line in reversed(text.splitlines()) if re.search(r"\d (passed|skipped)\b", line)), "")
    found = json.loads(target.read_text()) if target.exists() else {"machine": {}, "rows": []}
    return Outcome(note, seconds, found["machine"], found["rows"])


def matrix_rate(device: str) -> float:
    """FLOP/s of a bfloat16 product of two large squares: the best of ten."""
    side, seconds = SQUARE[device], []
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(10):
        started = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds)


def table_of(name: str, outcome: Outcome, rate: float) -> list[Row]:
    """The table's rows of one part: the part itself, then what it measured."""
    rows = [{"part": name, "seconds": outcome.seconds, "note": outcome.note}]
    kinds = ("time", "memory")
    time_of, memory_of = (
        {(row["contender"], row["divergence"]): row for row in outcome.rows if row.get("measure") == kind}
        for kind in kinds
    )
    for (contender, divergence), row in time_of.items():
        size = outcome.machine
        flop = 2 * size["tokens"] * size["hidden"] * size["vocabulary"] * (PRODUCTS if divergence else 1)
        rows.append(
            {
                "part": name,
                "what": f"{contender} {divergence}".strip(),
                "seconds": row["seconds"],
                "peak_mib": memory_of.get((contender, divergence), {}).get("peak_mib"),
                "tokens_per_s": size["tokens"] / row["seconds"],
                "share_of_matrix_rate": flop / row["seconds"] / rate,
            }
        )
    for row in outcome.rows:
        if "layout" in row:
            rows.append(
                {
                    "part": name,
                    "what": f"{row['model']} {row['case']} {row['layout']}",
                    "seconds": row["wall_s"],
                    "peak_mib": row["peak_mib"],
                    "tokens_per_s": row["answer_tokens"] / row["wall_s"],
                    **{key: row[key] for key in ("teacher_tokens", "student_tokens", "logprob_difference")},
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=result_file, help="write machine, rows and ratios to this file")
    parser.add_argument("--quick", action="store_true", help="tiny sizes on a GPU too")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rate = matrix_rate(device)
    name = torch.cuda.get_device_name() if device == "cuda" else "none: tiny sizes on the CPU"
    found_on = machine(device_name=name, torch=torch.__version__, matrix_rate_tflops=rate / 1e12)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for part in parts_for(device, tiny=arguments.quick or device == "cpu"):
            rows += table_of(part.name, run(part, Path(folder)), rate)
    columns = ("part", "what", "seconds", "peak_mib", "tokens_per_s", "share_of_matrix_rate", "note")
    title = f"{name}; matrix rate {rate / 1e12:.3g} TFLOP/s (bfloat16)"
    show_table(title, columns, [tuple(row.get(column) for column in columns) for row in rows])
    finish(found_on, rows, {}, arguments.json)


if __name__ == "__main__":
    main()

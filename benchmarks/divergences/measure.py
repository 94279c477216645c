"""Measurements in a process of their own: `python -m benchmarks.divergences.measure REQUEST...` prints rows as JSON.

- `time`: all contenders and divergences, and the bare product, take turns in one process for several rounds, so that a
  busy spell of a shared machine meets all of them; medians of seconds.
- `memory`: one contender and divergence in a process of its own. On the CPU the peak of the resident set during
  forward and backward (VmHWM, set back beforehand through /proc/self/clear_refs) minus the resident set before, minus
  the bytes of the two returned gradients. On a GPU the allocator's own peak instead of the resident set. A pass over
  a few tokens of the same shapes goes first, so that libraries' one-time buffers are not counted.
- `error`: relative errors (norm of the difference over the norm) of divergences and gradients against the dense
  formula in float64.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.divergences.contenders import ALPHAS, CONTENDERS, Inputs, Result, Size, dense

MIB = 2**20


@dataclass(frozen=True)
class Request:
    what: str
    """time, memory or error."""
    size: Size
    contenders: list[str]
    divergences: list[str]
    repeats: int

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str) -> "Request":
        found = json.loads(text)
        return cls(**{**found, "size": Size(**found["size"])})


def times(request: Request) -> list[dict[str, Any]]:
    """A row per contender and divergence, and one for the product: `seconds`."""
    inputs = Inputs.random(request.size)
    runs: dict[tuple[str, str], Callable[[], Any]] = {("product", ""): lambda: None}
    for divergence in request.divergences:
        for name in request.contenders:
            runs[name, divergence] = _pass(name, inputs, ALPHAS[divergence])
    found: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for _ in range(request.repeats + 1):
        for key, run in runs.items():
            inputs.forget_gradients()
            found[key].append(_product_seconds(inputs) if key[0] == "product" else _seconds(run, request.size.device))
    # The first round warms up.
    return [
        {"contender": name, "divergence": divergence, "seconds": statistics.median(seconds[1:])}
        for (name, divergence), seconds in found.items()
    ]


def memory(request: Request) -> list[dict[str, Any]]:
    """One row: `peak_mib` beyond inputs and returned gradients, and `seconds` of that pass."""
    size, (name,), (divergence,) = request.size, request.contenders, request.divergences
    few = Inputs.random(replace(size, tokens=min(8, size.tokens), vocabulary=min(64, size.vocabulary)))
    _pass(name, few, ALPHAS[divergence])()
    inputs = Inputs.random(size)
    inputs.forget_gradients()
    run = _pass(name, inputs, ALPHAS[divergence])
    before = start_peak(size.device)
    seconds = _seconds(run, size.device)
    beyond = peak_bytes(size.device) - before - inputs.returned_bytes()
    row = {"contender": name, "divergence": divergence, "tokens": size.tokens}
    return [{**row, "peak_mib": max(0.0, beyond / MIB), "seconds": seconds}]


def errors(request: Request) -> list[dict[str, Any]]:
    """A row per contender and divergence: relative errors `divergence_error`, `hidden_error`, `weight_error`."""
    inputs = Inputs.random(request.size)
    exact = Inputs(
        inputs.student_NH.detach().double().requires_grad_(),
        inputs.weight_VH.detach().double().requires_grad_(),
        inputs.teacher_NH.double(),
        inputs.teacher_weight_VH.double(),
        inputs.targets_N,
        inputs.token_weight_N.double(),
        inputs.chunk_tokens,
        inputs.clip_threshold,
    )
    return [row for divergence in request.divergences for row in _errors(request.contenders, divergence, inputs, exact)]


def _errors(names: list[str], divergence: str, inputs: Inputs, exact: Inputs) -> list[dict[str, Any]]:
    alpha, rows = ALPHAS[divergence], []
    exact.forget_gradients()
    truth = (dense(exact, alpha).divergence_N, exact.student_NH.grad, exact.weight_VH.grad)
    for name in names:
        inputs.forget_gradients()
        result = CONTENDERS[name](inputs, alpha)
        found = (result.divergence_N, inputs.student_NH.grad, inputs.weight_VH.grad)
        row: dict[str, Any] = {"contender": name, "divergence": divergence}
        for what, ours, right in zip(("divergence", "hidden", "weight"), found, truth, strict=True):
            assert right is not None
            row[f"{what}_error"] = None if ours is None else float((ours.double() - right).norm() / right.norm())
        rows.append(row)
    return rows


def _pass(name: str, inputs: Inputs, alpha: float) -> Callable[[], Result]:
    return lambda: CONTENDERS[name](inputs, alpha)


def _seconds(run: Callable[[], Any], device: str) -> float:
    _synchronise(device)
    begin = time.perf_counter()
    run()
    _synchronise(device)
    return time.perf_counter() - begin


@torch.no_grad()
def _product_seconds(inputs: Inputs) -> float:
    """One product of all tokens' states with the whole head; its output's pages are touched before the clock starts."""
    device = inputs.weight_VH.device.type
    logits_NV = torch.zeros(len(inputs.student_NH), len(inputs.weight_VH), dtype=inputs.weight_VH.dtype, device=device)
    return _seconds(lambda: torch.mm(inputs.student_NH, inputs.weight_VH.t(), out=logits_NV), device)


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def start_peak(device: str) -> int:
    """Set the peak of this process's memory back; returns the bytes it has now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return _status_bytes("VmRSS")


def peak_bytes(device: str) -> int:
    """The most bytes since `start_peak`."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else _status_bytes("VmHWM")


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def main() -> None:
    """Requests as JSON on the command line; a list of rows for each of them as JSON on the last line of the output."""
    measures = {"time": times, "memory": memory, "error": errors}
    found = []
    for request in map(Request.of_json, sys.argv[1:]):
        torch.set_num_threads(request.size.threads)
        found.append(measures[request.what](request))
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""What the signals of a step cost: `python -m benchmarks.signals [--model FOLDER] --json FILE`.

Entropies of policy and teacher, length, repeated and copied runs of tokens (`learner/signals.py`), the statistics of
the mismatch of engine and learner, and the alarms that watch them all (`unisd_rl/driver/alarms.py`). A learner takes
the same step of UniSD* over and over, in turns with them and without; they are also timed one by one where they happen,
which other work on the machine disturbs less. Counted is the processor time of this process, all its threads; medians
of `--repeats` pairs.

    embedded    a step of the default recipe: 64 answers of the embedded model
    FOLDER      a step of `--answers` answers of a model of your own to the task `multiples`

`signals.NAME` is the time within them as a share of the step, `signals_in_turns.NAME` the step with them over that
without, less 1.
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.layouts.one_rank import one_rank
from benchmarks.layouts.rollouts import CASES, Answers, problems_of, steps_of, unisd_star
from benchmarks.output import finish, machine, result_file, show_table
from unisd_rl.base_model import BaseModelRecipe, ensure_base_model
from unisd_rl.config import Config
from unisd_rl.driver.alarms import Alarms
from unisd_rl.metrics import MismatchMetrics, SignalMetrics
from unisd_rl.types import Rollout

TIMEOUT_S = 900
_LONGEST = 64
_EMBEDDED_ANSWERS = 64


@dataclass(frozen=True)
class Row:
    """One model: medians of its steps, and of the time within the signals."""

    model: str
    answers: int
    tokens: int
    """Completion tokens of the step."""
    with_s: float
    without_s: float
    within_ms: float
    share: float
    """Of the step with them that lies within them."""
    in_turns: float
    """The step with them over that without, less 1."""


class Signals:
    """The signals of a learner in this process, switched on and off; `within_s` is the time that they took."""

    def __init__(self) -> None:
        from learner import learner, scoring

        self.on, self.within_s = True, 0.0
        entropies, metrics = learner.sampled_entropies, learner.signal_metrics
        nothing = SignalMetrics(*(float("nan"),) * 5)
        for module in (learner, scoring):
            module.sampled_entropies = self._switched(entropies, torch.empty(0))
        learner.signal_metrics = self._switched(metrics, nothing)
        self.mismatch = self._switched(MismatchMetrics.between, None)

    def watch(self, alarms: Alarms) -> Callable[..., Any]:
        """What observes a step's numbers."""
        return self._switched(alarms.observe, None)

    def _switched(self, work: Callable[..., Any], instead: Any) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            if not self.on:
                return instead
            started = time.process_time()
            result = work(*arguments)
            self.within_s += time.process_time() - started
            return result

        return run


def main(models: list[tuple[str, Path, dict[str, Any], int]], repeats: int, threads: int, file: Path | None) -> None:
    """Measure and tell."""
    from learner.sharding import init_process_group

    found_on = machine(repeats=repeats, threads=threads)
    device = init_process_group(False, threads, TIMEOUT_S)
    signals = Signals()
    rows = [_row(signals, device, repeats, *model) for model in models]
    columns = ("model", "answers", "tokens", "s with", "s without", "ms within", "share", "in turns")
    show_table("signals of a step of UniSD*", columns, [tuple(asdict(row).values()) for row in rows])
    ratios = {f"signals.{row.model}": row.share for row in rows}
    ratios |= {f"signals_in_turns.{row.model}": row.in_turns for row in rows}
    finish(found_on, [asdict(row) for row in rows], ratios, file)


def _row(
    signals: Signals, device: torch.device, repeats: int, name: str, model: Path, task: dict[str, Any], answers: int
) -> Row:
    from learner.learner import Learner

    # The rate hardly moves a weight, so that every step is the same work on the same model.
    config = unisd_star(model, {"task": task, "learner": {"learning_rate": 1e-12, "batch_size": answers}})
    rollouts = _rollouts(model, task, answers)
    step = _step(Learner(config, model, device), config, signals, rollouts)
    step(True)  # the optimiser's first step makes its moments
    pairs = [(step(True), step(False)) for _ in range(repeats)]
    with_s, without_s = median(pair[0][0] for pair in pairs), median(pair[1][0] for pair in pairs)
    share = median(within_s / step_s for (step_s, within_s), _ in pairs)
    within_s = median(pair[0][1] for pair in pairs)
    turns = median(more / less - 1 for (more, _), (less, _) in pairs)
    tokens = sum(len(rollout.completion_tokens) for rollout in rollouts)
    return Row(name, answers, tokens, with_s, without_s, 1e3 * within_s, share, turns)


def _rollouts(model: Path, task: dict[str, Any], answers: int) -> list[Rollout]:
    problems = problems_of(task, model, "reference_first", answers)
    sampled = Answers(model, "cpu", "float32", _LONGEST, ends=True)
    told = sampled.sample([problem.prompt for problem in problems], [1] * answers)
    return steps_of(CASES["g1"], problems, told, answers)[0]


def _step(
    learner: Any, config: Config, signals: Signals, rollouts: list[Rollout]
) -> Callable[[bool], tuple[float, float]]:
    """One that takes a step with the signals or without; returns its seconds, and those within them."""
    watch = signals.watch(Alarms(config, lambda event: None))
    # The answers are gold to the learner, as no engine was there: as many log-probs as one would have had stand in.
    tokens = sum(len(rollout.completion_tokens) for rollout in rollouts)
    engine_N, learner_N = np.random.default_rng(0).normal(size=(2, tokens))

    def step(on: bool) -> tuple[float, float]:
        signals.on, signals.within_s = on, 0.0
        started = time.process_time()
        metrics = learner.optim_step(learner.forward_backward(rollouts, 0))
        signals.mismatch(engine_N, learner_N)
        watch(metrics)
        return time.process_time() - started, signals.within_s

    return step


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="a model of your own, beside the embedded one")
    parser.add_argument("--answers", type=int, default=8, help="of a step of that model")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=result_file, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="two repetitions")
    options = parser.parse_args()
    if options.quick:
        options.repeats = 2
    os.environ |= one_rank()
    sizes = {"train_examples": 200, "eval_examples": 8}
    embedded = ensure_base_model(BaseModelRecipe(seed=0), lambda *_: None)
    measured = [("embedded", embedded, {"type": "arithmetic", **sizes}, _EMBEDDED_ANSWERS)]
    if options.model is not None:
        measured.append((options.model.name, options.model, {"type": "multiples", **sizes}, options.answers))
    main(measured, options.repeats, options.threads, options.json)

"""The terminal output of a command: progress bars, a line per step, notices, results. All else goes to files."""

import math
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich import console as rich_console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBars
from rich.table import Table
from typing_extensions import override

from unisd_rl.evaluation.evaluate import Evaluation
from unisd_rl.evaluation.statistics import EvaluationSummary, describe_cut
from unisd_rl.metrics import AnswerMetrics, StepMetrics
from unisd_rl.types import Alarm, Event, Failure, Notice, Progress, Recovery, Resumption, Scaling, Stop

_WIDE = 1000  # columns: no line of a table is folded in a log


def describe_stop(directory: Path) -> str:
    """The last line of a run that was stopped: how it goes on."""
    return f"stopped; resume with: python -m unisd_rl.run {shlex.join(['--resume', str(directory)])}"


class Console(Progress):
    """The terminal, with progress bars below the lines. On a pipe or in a job's log there are only lines."""

    def __init__(self, steps: int = 0) -> None:
        self._terminal = rich_console.Console(highlight=False, soft_wrap=True)
        self._steps = steps
        self._bars = ProgressBars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._terminal,
            transient=True,
            disable=not self._terminal.is_terminal,
        )
        self._training = self._bars.add_task("steps", total=steps, visible=False)

    def __enter__(self) -> "Console":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def expect_steps(self, steps: int) -> None:
        """How many steps the training will have, once that is known."""
        self._steps = steps
        self._bars.update(self._training, total=steps)

    def print(self, line: str) -> None:
        """Print one line, or several."""
        self._terminal.print(line, markup=False)

    def print_notes(self, notes: Iterable[str]) -> None:
        """Print what a person should know and nobody has to act on, a line each."""
        for note in notes:
            self.print(f"note: {note}")

    def print_table(self, table: Table) -> None:
        """Print a table; outside a terminal as wide as it needs to be."""
        wide = rich_console.Console(file=self._terminal.file, highlight=False, width=_WIDE)
        (self._terminal if self._terminal.is_terminal else wide).print(table, soft_wrap=False)

    @override
    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        task = self._bars.add_task(what, total=None)
        try:
            yield
        finally:
            self._bars.remove_task(task)

    @override
    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[float, str], None]]:
        if not self._terminal.is_terminal:
            self.print(f"{what} ...")
        task = self._bars.add_task(what, total=100)

        def report(share: float, note: str) -> None:
            self._bars.update(task, completed=round(100 * share), description=f"{what}: {note}")

        try:
            yield report
        finally:
            self._bars.remove_task(task)

    def print_step(self, metrics: StepMetrics, tokens_per_s: float, answers: AnswerMetrics | None = None) -> None:
        """Print the line of one step; `answers` are the grades of those it trained on, where there are any."""
        loss, weights, policy = metrics.loss, metrics.weights, metrics.policy
        self._bars.update(self._training, completed=metrics.step + 1, visible=True)
        fields = [f"step {metrics.step + 1:>4}/{self._steps}", f"loss {loss.loss:8.4f}"]
        if not math.isnan(loss.divergence):  # nan: there is no divergence term
            fields += [f"divergence {loss.divergence:.4f}", f"clipped {loss.clipped_share:5.1%}"]
        if not math.isnan(weights.weight_mean):  # nan: no agreement
            spread = f"{weights.weight_below_half:.1%} < 0.5, ESS {weights.effective_sample_size:.3f}"
            fields += [f"agreement {weights.weight_mean:.3f} ({spread})"]
        if not math.isnan(policy.staleness_max):  # nan: the policy sampled nothing
            fields += [f"staleness {policy.staleness_mean:.2f} (max {policy.staleness_max:g})"]
        if answers is not None:
            fields.append(
                f"training answers right {answers.train_accuracy:.1%}, pass@{answers.answers_per_prompt} "
                f"{answers.train_pass_at_g:.1%} (mixed versions)"
            )
        self.print("  ".join([*fields, f"{tokens_per_s:,.0f} tokens/s"]))

    def print_evaluation(self, evaluation: Evaluation, limit: int) -> None:
        """Print the result of one evaluation, whose answers had at most `limit` tokens."""
        interval, retention = evaluation.pass_rate().interval, evaluation.retention
        self.print(
            f"accuracy of version {evaluation.version.number}: {evaluation.accuracy:.1%} ({evaluation.correct} of "
            f"{len(evaluation.answers)} answers to held-out problems; 95 % interval {interval.low:.1%} to "
            f"{interval.high:.1%}; {evaluation.wall_s:.0f} s)"
        )
        if evaluation.cut:
            self.print(describe_cut(evaluation.cut, len(evaluation.answers), limit))
        if retention is not None:
            self.print(
                f"compared with the initial model: PPLfit {retention.ppl_fit:.4f}  PPLret {retention.ppl_ret:.4f}  "
                f"JSD {retention.jsd:.4f} nats"
            )

    def print_event(self, event: Event) -> None:
        """Print what a person should see of an event."""
        match event:
            case Failure():
                restart = f"; restart {event.restart} in {event.wait_s:g} s" if event.restart else ""
                self.print(f"{event.component} failed: {event.reason}{restart}")
            case Recovery():
                self.print(f"{event.component} recovered after {event.seconds:.1f} s")
            case Alarm():
                self.print(f"alarm: {event.reason}")
            case Notice():
                self.print_notes([event.reason])
            case Scaling():
                self.print(f"rollout actors {event.before} -> {event.actors}: {event.reason}")
            case Stop() | Resumption():
                pass  # the command's first or last line says it

    def print_stop_notice(self) -> None:
        """Print what the first Ctrl-C or SIGTERM does."""
        self.print("finishing this step and saving a checkpoint; press Ctrl-C again to stop now")

    def print_finished(
        self, before: EvaluationSummary, after: EvaluationSummary, limit: int, directory: Path, checkpoint: Path
    ) -> None:
        """Print the last lines of a run that took all its steps; answers had at most `limit` tokens."""
        gain = 100 * (after.accuracy - before.accuracy)
        self.print(f"accuracy {before.accuracy:.1%} -> {after.accuracy:.1%} ({gain:+.1f} points)")
        if after.cut:
            self.print(describe_cut(after.cut, after.problems * after.samples, limit))
        self.print(f"model  {checkpoint}\nfiles  {directory}")

    def print_interrupted(self, directory: Path) -> None:
        """Print the last line of a run that was stopped."""
        self.print(describe_stop(directory))

"""The terminal output of a command: progress bars, a line per step, notices, results. All else goes to files."""

import math
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import console as rich_console
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import Progress as ProgressBars
from rich.progress import ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from unisd_rl.driver.status import RunStatus, clock
from unisd_rl.evaluation.statistics import EvaluationSummary, describe_cut, describe_silent
from unisd_rl.metrics import AnswerMetrics, StepMetrics
from unisd_rl.storage.logs import keep_bounded
from unisd_rl.terminal import OutputCapture, is_terminals_process, spoken_by
from unisd_rl.types import Alarm, Event, Failure, Notice, Progress, Recovery, ReportProgress, Resumption, Scaling, Stop

if TYPE_CHECKING:  # its modules import torch and Ray, for which the first line on the screen does not wait
    from unisd_rl.evaluation.evaluate import Evaluation

_WIDE = 1000  # columns: no line of a table is folded in a log
_REFRESH_HZ = 4


def describe_stop(directory: Path) -> str:
    """The last line of a run that was stopped: how it goes on."""
    return f"stopped; resume with: python -m unisd_rl.run {shlex.join(['--resume', str(directory)])}"


def fitted(fields: Iterable[tuple[int, str]], width: int) -> str:
    """One line of these (rank, text), of which those with the highest ranks are left out until it fits `width`."""
    kept = list(fields)
    while len(line := "  ".join(text for _, text in kept)) > width:
        last = max(rank for rank, _ in kept)
        if last == 0:
            break
        kept = [field for field in kept if field[0] != last]
    return line


class _Count(ProgressColumn):
    """`384/512`, of work whose amount is known."""

    @override
    def render(self, task: Task) -> Text:
        return Text(f"{task.completed:,.0f}/{task.total:,.0f}" if task.total else "")


class Console(Progress):
    """The terminal of a command: lines, and below them what is going on. On a pipe or in a log there are only lines.

    `captures`: what libraries write goes to a log meanwhile (`unisd_rl/terminal.py`); else nothing moves on the screen,
    for a debugger's sake. `quiet`: only what ends a command or is a failure is shown.
    """

    def __init__(self, steps: int = 0, quiet: bool = False, captures: bool = False) -> None:
        self._captures = captures
        self._capture: OutputCapture | None = None
        self._terminal = rich_console.Console(highlight=False, soft_wrap=True)
        self._live_view = self._terminal.is_terminal and captures and not quiet
        self._quiet, self._open = quiet, ExitStack()
        self.status = RunStatus(steps=steps)
        self._bars = ProgressBars(
            SpinnerColumn(), TextColumn("{task.description}"), _Count(), TimeElapsedColumn(), console=self._terminal
        )
        self._live = Live(
            get_renderable=self._below, console=self._terminal, transient=True, refresh_per_second=_REFRESH_HZ,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip

    def __enter__(self) -> "Console":
        if self._captures and is_terminals_process():
            self._capture = OutputCapture()
            self._terminal.file = self._capture.stream
            self._open.callback(self._give_back, self._capture)
        self._open.enter_context(spoken_by(self.print))
        if self._live_view:
            self._open.enter_context(self._live)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _give_back(self, capture: OutputCapture) -> None:
        self._terminal.file, self._capture = sys.stdout, None
        capture.close()

    def _below(self) -> RenderableType:
        """What stands below the lines: how the run stands, once it trains, and what is waited for."""
        return Group(self.status, self._bars) if self.status.now else self._bars.get_renderable()

    def keep_output(self, log: Path) -> None:
        """What libraries wrote and will write is to be found there."""
        if self._capture is not None:
            self._capture.keep_in(log)
            keep_bounded(log)

    def expect_steps(self, steps: int, name: str = "") -> None:
        """How many steps the training will have, once that is known, and of which run."""
        self.status.steps, self.status.name = steps, name

    def print(self, line: str) -> None:
        """Print one line, or several; nothing where the command is to be quiet."""
        if not self._quiet:
            self.announce(line)

    def announce(self, line: str) -> None:
        """Print what a quiet command says too."""
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
        with self._task(what, None):
            yield

    @override
    @contextmanager
    def progress(self, what: str) -> Iterator[ReportProgress]:
        with self._task(what, None) as task:

            def report(done: int, total: int, note: str) -> None:
                self._bars.update(task, completed=done, total=total, description=f"{what}: {note}" if note else what)

            yield report

    @contextmanager
    def phase(self, what: str) -> Iterator[None]:
        """Show that the run does this in this block, part of a step."""
        self.status.begin(what)
        yield

    @contextmanager
    def _task(self, what: str, total: int | None) -> Iterator[TaskID]:
        if not self._live_view:
            self.print(f"{what} ...")
        if self.status.now:
            self.status.begin(what)
        task = self._bars.add_task(what, total=total)
        try:
            yield task
        finally:
            self._bars.remove_task(task)

    def observe_step(self, line: Mapping[str, Any], tokens: Mapping[str, int]) -> None:
        """Take a step into account, by its line of metrics.jsonl and the tokens that each rollout actor made for it."""
        self.status.observe_step(line)
        self.status.tokens = tokens

    def observe_actors(self, states: Sequence[str]) -> None:
        """Print which rollout actors came, went or changed since the last look; a state is `rollout-1: serving`."""
        before, self.status.actor_states = self.status.actor_states, tuple(states)
        if before:
            now = {state.partition(": ")[0] for state in states}
            gone = [name for state in before if (name := state.partition(": ")[0]) not in now]
            for change in (*(state for state in states if state not in before), *(f"{name}: gone" for name in gone)):
                self.print(change)

    def print_step(self, metrics: StepMetrics, tokens_per_s: float, answers: AnswerMetrics | None = None) -> None:
        """Print the line of one step; `answers` are the grades of those it trained on, where there are any.

        On a terminal what does not fit its width is left out, the least telling first.
        """
        width = self._terminal.width if self._terminal.is_terminal else _WIDE
        self.print(fitted(self._step_fields(metrics, tokens_per_s, answers), width))

    def _step_fields(
        self, metrics: StepMetrics, tokens_per_s: float, answers: AnswerMetrics | None
    ) -> Iterator[tuple[int, str]]:
        """(Rank, text) of each field of a step's line; rank 0 is never left out."""
        loss, weights, policy, step_s = metrics.loss, metrics.weights, metrics.policy, self.status.step_s
        yield 0, f"step {metrics.step + 1:>4}/{self.status.steps}"
        yield 0, f"loss {loss.loss:8.4f}"
        if not math.isnan(loss.divergence):  # nan: there is no divergence term
            yield 5, f"divergence {loss.divergence:.4f}"
            yield 6, f"clipped {loss.clipped_share:5.1%}"
        if not math.isnan(weights.weight_mean):  # nan: no agreement
            yield 1, f"agreement {weights.weight_mean:.3f} ({weights.weight_below_half:.1%} < 0.5)"
            yield 7, f"ESS {weights.effective_sample_size:.3f}"
        if not math.isnan(policy.staleness_max):  # nan: the policy sampled nothing
            yield 4, f"staleness {policy.staleness_mean:.2f} (max {policy.staleness_max:g})"
        if answers is not None:
            yield (
                2,
                f"training answers right {answers.train_accuracy:.1%}, pass@{answers.answers_per_prompt} "
                f"{answers.train_pass_at_g:.1%} (mixed versions)",
            )
        yield 3, f"{tokens_per_s:,.0f} tokens/s"
        if not math.isnan(step_s):
            yield 0, f"{step_s:.1f} s/step"
            yield 0, f"{clock(self.status.left_s)} left"

    def print_evaluation(self, evaluation: "Evaluation", limit: int) -> None:
        """Print the result of one evaluation, whose answers had at most `limit` tokens."""
        interval, retention = evaluation.pass_rate().interval, evaluation.retention
        self.status.accuracies[evaluation.version.number] = evaluation.accuracy
        self.status.cuts[evaluation.version.number] = evaluation.cut
        several = f"avg@{evaluation.samples}: " if evaluation.samples > 1 else ""
        self.print(
            f"accuracy of version {evaluation.version.number}: {evaluation.accuracy:.1%} ({several}"
            f"{evaluation.correct} of {len(evaluation.answers)} answers to held-out problems; 95 % interval "
            f"{interval.low:.1%} to {interval.high:.1%}; {evaluation.wall_s:.0f} s)"
        )
        if evaluation.choice is not None:
            self.print(evaluation.choice.describe(len(evaluation.answers)))
        elif evaluation.silent:
            self.print(describe_silent(evaluation.silent, len(evaluation.answers)))
        if evaluation.cut:
            self.print(describe_cut(evaluation.cut, len(evaluation.answers), limit))
        if retention is not None:
            self.print(
                f"compared with the initial model: PPLfit {retention.ppl_fit:.4f}  PPLret {retention.ppl_ret:.4f}  "
                f"JSD {retention.jsd:.4f} nats"
            )

    def print_event(self, event: Event) -> None:
        """Print what a person should see of an event."""
        self.status.observe_event({"time_s": time.time(), "event": type(event).__name__.lower(), **asdict(event)})
        match event:
            case Failure():
                restart = f"; restart {event.restart} in {event.wait_s:g} s" if event.restart else ""
                self.announce(f"{event.component} failed: {event.reason}{restart}")
            case Recovery():
                self.announce(f"{event.component} recovered after {event.seconds:.1f} s")
            case Alarm():
                self.announce(f"alarm: {event.reason}")
            case Notice():
                self.print_notes([event.reason])
            case Scaling():
                self.print(f"rollout actors {event.before} -> {event.actors}: {event.reason}")
            case Stop() | Resumption():
                pass  # the command's first or last line says it

    def print_stop_notice(self) -> None:
        """Print what the first Ctrl-C or SIGTERM does."""
        self.announce("finishing this step and saving a checkpoint; press Ctrl-C again to stop now")

    def print_finished(
        self, before: EvaluationSummary, after: EvaluationSummary, limit: int, directory: Path, checkpoint: Path
    ) -> None:
        """Print the last lines of a run that took all its steps; answers had at most `limit` tokens."""
        gain = 100 * (after.accuracy - before.accuracy)
        self.announce(f"accuracy {before.accuracy:.1%} -> {after.accuracy:.1%} ({gain:+.1f} points)")
        if after.cut:
            self.announce(describe_cut(after.cut, after.problems * after.samples, limit))
        self.announce(f"model  {checkpoint}\nfiles  {directory}")

    def print_interrupted(self, directory: Path) -> None:
        """Print the last line of a run that was stopped."""
        self.announce(describe_stop(directory))

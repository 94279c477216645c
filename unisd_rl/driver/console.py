"""What a person sees: progress bars, one line a step, and at the end what came of it. Everything else goes to files."""

import math
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from unisd_rl.evaluation.evaluate import Evaluation
from unisd_rl.evaluation.statistics import Examined
from unisd_rl.metrics import StepMetrics
from unisd_rl.types import Event, Recovery

_WIDE = 1000  # columns


class Screen:
    """Owner of the terminal. On a pipe or in a job's log there are no bars, only lines."""

    def __init__(self, steps: int = 0) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self._steps = steps
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._training = self._bars.add_task("steps", total=steps, visible=False)

    def __enter__(self) -> "Screen":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, line: str) -> None:
        """One line."""
        self.console.print(line, markup=False)

    def show(self, table: Table) -> None:
        """A table; where nobody watches, as wide as it wants to be."""
        wide = Console(file=self.console.file, highlight=False, width=_WIDE)
        (self.console if self.console.is_terminal else wide).print(table, soft_wrap=False)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """A spinner with `what` while the block runs."""
        task = self._bars.add_task(what, total=None)
        try:
            yield
        finally:
            self._bars.remove_task(task)

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[float, str], None]]:
        """A bar (on a pipe one line); the block reports its share done (0 to 1) and a short note."""
        if not self.console.is_terminal:
            self.say(f"{what} ...")
        task = self._bars.add_task(what, total=100)

        def report(share: float, note: str) -> None:
            self._bars.update(task, completed=round(100 * share), description=f"{what}: {note}")

        try:
            yield report
        finally:
            self._bars.remove_task(task)

    def step(self, metrics: StepMetrics, tokens_per_s: float) -> None:
        """The line of one step."""
        loss, policy = metrics.loss, metrics.policy
        self._bars.update(self._training, completed=metrics.step + 1, visible=True)
        parts = [f"step {metrics.step + 1:>4}/{self._steps}", f"loss {loss.loss:8.4f}"]
        if not math.isnan(loss.divergence):  # nan: there is no divergence term
            parts += [f"divergence {loss.divergence:.4f}", f"agreement {metrics.weights.weight_median:.2f}"]
            parts += [f"clipped {loss.clipped_share:5.1%}"]
        if not math.isnan(policy.staleness_max):  # nan: the policy sampled nothing
            parts += [f"staleness {policy.staleness_mean:.2f} (max {policy.staleness_max:g})"]
        self.say("  ".join([*parts, f"{tokens_per_s:,.0f} tokens/s"]))

    def evaluated(self, evaluation: Evaluation) -> None:
        """The result of one evaluation."""
        interval, retention = evaluation.pass_rate().interval, evaluation.retention
        self.say(
            f"accuracy of version {evaluation.version.number}: {evaluation.accuracy:.1%} ({evaluation.correct} of "
            f"{len(evaluation.answers)} answers to held-out problems; 95 % interval {interval.low:.1%} to "
            f"{interval.high:.1%}; {evaluation.wall_s:.0f} s)"
        )
        if retention is not None:
            self.say(
                f"beside the initial model: PPLfit {retention.ppl_fit:.4f}  PPLret {retention.ppl_ret:.4f}  "
                f"JSD {retention.jsd:.4f} nats"
            )

    def event(self, event: Event) -> None:
        """Something broke, or works again."""
        if isinstance(event, Recovery):
            self.say(f"recovered: {event.component} after {event.seconds:.1f} s")
            return
        again = f"; try {event.restart} in {event.wait_s:g} s" if event.restart else ""
        self.say(f"fault: {event.component}: {event.reason}{again}")

    def stopping(self) -> None:
        """Ctrl-C was pressed once."""
        self.say("stopping after this step, with a checkpoint; once more stops at once")

    def finished(self, before: Examined, after: Examined, directory: Path, checkpoint: Path) -> None:
        """The last lines of a run that went to its end."""
        gain = 100 * (after.accuracy - before.accuracy)
        self.say(f"accuracy {before.accuracy:.1%} -> {after.accuracy:.1%} ({gain:+.1f} points)")
        self.say(f"model  {checkpoint}\nfiles  {directory}")

    def interrupted(self, directory: Path) -> None:
        """The last lines of a run that was stopped."""
        self.say(f"stopped; files  {directory}")
        self.say(f"go on with: python -m unisd_rl.run {shlex.join(['--resume', str(directory)])}")

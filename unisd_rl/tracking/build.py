"""The trackers that a configuration names; their libraries are imported in the threads that tell them."""

import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

from unisd_rl.config import Config
from unisd_rl.tracking.recorded import ToldAgain
from unisd_rl.tracking.tracker import RunInformation, Tracker, Trackers
from unisd_rl.types import Report


def trackers(config: Config, run: Path, report: Report) -> Trackers:
    """Those of `tracking.to`, each with what it keeps in the run's folder."""

    def tensorboard() -> Tracker:
        from unisd_rl.tracking.tensorboard import TensorBoard

        return TensorBoard(run / "tensorboard")

    def wandb() -> Tracker:
        from unisd_rl.tracking.wandb import Wandb

        return ToldAgain(run, "wandb", lambda: Wandb(run, config.run.name))

    def mlflow() -> Tracker:
        from unisd_rl.tracking.mlflow import MLflow

        return ToldAgain(run, "mlflow", lambda: MLflow(run, config.run.name))

    def trackio() -> Tracker:
        from unisd_rl.tracking.trackio import Trackio

        return ToldAgain(run, "trackio", lambda: Trackio(run, config.run.name))

    def prometheus() -> Tracker:
        from unisd_rl.tracking.prometheus import Prometheus

        return Prometheus(config.run.name)

    known: Mapping[str, Callable[[], Tracker]] = {
        "tensorboard": tensorboard,
        "wandb": wandb,
        "mlflow": mlflow,
        "trackio": trackio,
        "prometheus": prometheus,
    }
    # Ray's nodes serve Prometheus; a run in one process has none.
    named = [name for name in config.tracking.to if not (name == "prometheus" and config.run.in_process)]
    opened: dict[str, Callable[[], Tracker]] = {name: known[name] for name in named}
    return Trackers(opened, partial(run_information, config, run), report, {"wandb": _end_wandb_service})


def _end_wandb_service() -> None:
    """Kill W&B's service process, if this process has one.

    Its library starts it as a child and waits at exit until it has sent everything: minutes where a server does not
    answer. What it was told since its last write is told again when the run is resumed.
    """
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # a child that ends meanwhile
            if child.name() == "wandb-core":
                child.kill()


def run_information(config: Config, run: Path) -> RunInformation:
    """What the run in this folder is, as its config.toml and the working directory say."""
    recipe = (run / "config.toml").read_text(encoding="utf-8")
    return RunInformation(config.model_dump(mode="json", exclude_none=True), recipe, shlex.join(sys.argv), _commit())


def _commit() -> str | None:
    words = ["git", "rev-parse", "HEAD"]
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=5.0, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None

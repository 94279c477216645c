"""The trackers that a configuration names; their libraries are imported in the thread that tells them."""

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from unisd_rl.config import Config
from unisd_rl.tracking.tracker import Tracker, Trackers
from unisd_rl.types import Report


def run_information(config: Path) -> Mapping[str, str]:
    """What a run is, in Markdown, by name: its resolved configuration, and the commit of the working directory."""
    information = {"configuration": f"```toml\n{config.read_text(encoding='utf-8')}\n```"}
    try:
        words = ["git", "rev-parse", "HEAD"]
        commit = subprocess.run(words, capture_output=True, text=True, timeout=5.0, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return information
    return {**information, "git commit": f"`{commit}`"}


def trackers(config: Config, run: Path, report: Report) -> Trackers:
    """Those of `tracking.to`, each with what it keeps in the run's folder."""

    def tensorboard() -> Tracker:
        from unisd_rl.tracking.tensorboard import TensorBoard

        return TensorBoard(run / "tensorboard")

    known: dict[str, Callable[[], Tracker]] = {"tensorboard": tensorboard}
    return Trackers({name: known[name] for name in config.tracking.to}, report)

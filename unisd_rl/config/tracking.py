"""The section `tracking`: which trackers are told a run's numbers."""

from typing import Literal

from unisd_rl.config.base import Section

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio", "prometheus"]


class TrackingConfig(Section):
    """Trackers that are told numbers of steps and evaluations, and some answers. One that fails costs nothing."""

    to: tuple[TrackerName, ...] = ("tensorboard", "prometheus")
    """Trackers, each with what it keeps in a folder of its name in RUN unless its own variables lead elsewhere:
    `tensorboard`; `wandb` (Weights & Biases), `mlflow` and `trackio`, each an extra of that name; `prometheus`, which
    keeps nothing: Ray's nodes serve the newest numbers. Empty: none."""

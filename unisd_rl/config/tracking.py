"""The section `tracking`: which trackers are told a run's numbers."""

from typing import Literal

from unisd_rl.config.base import Section

TrackerName = Literal["tensorboard"]


class TrackingConfig(Section):
    """Trackers that are told numbers of steps and evaluations, and some answers. One that fails costs nothing."""

    to: tuple[TrackerName, ...] = ("tensorboard",)
    """Trackers: `tensorboard` writes to RUN/tensorboard. Empty: none."""

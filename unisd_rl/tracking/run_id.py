"""The identity that a run has in a tracker, kept in its folder: what is resumed goes on there as the same run."""

from collections.abc import Callable
from pathlib import Path

from unisd_rl.storage.files import write_text_atomic


def run_id(run: Path, tracker: str, new: Callable[[], str]) -> tuple[str, bool]:
    """The identity in RUN/tracking/TRACKER, and whether it was there; else it is `new()`, and kept."""
    kept = run / "tracking" / tracker
    if kept.exists():
        return kept.read_text(encoding="utf-8"), True
    kept.parent.mkdir(exist_ok=True)
    identity = new()
    write_text_atomic(kept, identity)
    return identity, False

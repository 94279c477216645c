"""Where real records of the benchmarks are, next to the repository; tests that need them skip where they are not."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def shared(name: str) -> Path:
    """A file or folder of the shared data."""
    if not (SHARED / name).exists():
        pytest.skip(f"{SHARED / name} is absent: the benchmarks' records are not part of the repository")
    return SHARED / name

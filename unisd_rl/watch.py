"""Who waits for one part of a run looks after the others meanwhile."""

from collections.abc import Callable
from typing import TypeAlias

Watch: TypeAlias = Callable[[], None]
"""Called about once a second during a wait; what it raises ends the wait."""


def look_nowhere() -> None:
    """Nobody else is looked after."""

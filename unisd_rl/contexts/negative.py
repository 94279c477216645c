"""The wrong demonstration of a negative view: used only if the grader says that it is wrong."""

from collections.abc import Callable, Iterable
from itertools import islice

from unisd_rl.types import Example


def wrong_demonstration(
    example: Example, candidates: Iterable[str], grade: Callable[[str, Example], bool], attempts: int
) -> str | None:
    """The first of at most `attempts` candidates that is verified wrong; None if there is none.

    The gold solution itself is never taken, though a grader may miss the answer in it.
    """
    tried = islice(candidates, attempts)
    return next((text for text in tried if text != example.demonstration and not grade(text, example)), None)

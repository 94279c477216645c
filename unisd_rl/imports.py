"""Libraries that other libraries import wherever they are installed, kept out of processes that do not use them.

Each costs every process that imports it up to seconds of its start and tens of MiB. Not pandas, which pyarrow imports
when it first converts a list: having once not found it, pyarrow takes a user's NaN in a column of pandas for a number.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hidden(library: str) -> Iterator[None]:
    """Within this block an import of `library` fails as if it were not installed."""
    before = sys.modules.pop(library, None)
    sys.modules[library] = None  # type: ignore[assignment]  # Python's own mark of what cannot be imported
    try:
        yield
    finally:
        del sys.modules[library]
        if before is not None:
            sys.modules[library] = before

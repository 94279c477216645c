"""Merges the package lists of Python 3.11 and 3.12 into one; a line has a marker only where the two differ.

Called by compile.sh: merge.py EXTRA LIST-3.11 LIST-3.12.
"""

import sys
from pathlib import Path

HEADER = """\
# Every package of the {extra} set-up, for CPython 3.11 and 3.12 on x86-64 Linux. Made by `make lock`.
# Complete: install with `pip install --no-deps`. No hashes: torch comes from one of two indexes and
# deepspeed is built here, and pip wants hashes for all packages of a list or for none.
"""


def merged(older: set[str], newer: set[str]) -> list[str]:
    """The lines of both lists in order; one that only one Python needs says so."""
    marked = [f'{line} ; python_version == "3.11"' for line in older - newer]
    marked += [f'{line} ; python_version == "3.12"' for line in newer - older]
    return sorted([*(older & newer), *marked])


if __name__ == "__main__":
    extra, *paths = sys.argv[1:]
    older, newer = (set(Path(path).read_text().split("\n")) - {""} for path in paths)
    print(HEADER.format(extra=extra.upper()) + "\n".join(merged(older, newer)))

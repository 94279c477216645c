"""Files that roll over by size: the newest part has the file's own name, those before it are numbered.

    metrics.00001.jsonl  metrics.00002.jsonl  metrics.jsonl      oldest first, as their names sort

One process writes; others may read meanwhile. A part is renamed when it is full, and never changed afterwards.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from unisd_rl.storage.files import sync_folder


def closed_parts(path: Path) -> dict[int, Path]:
    """Number -> part, of all but the newest, in order."""
    name = re.compile(rf"{re.escape(path.stem)}\.(\d{{5,}}){re.escape(path.suffix)}")
    with suppress(FileNotFoundError, NotADirectoryError):
        found = [match for match in map(name.fullmatch, os.listdir(path.parent)) if match]
        return {int(match[1]): path.with_name(match[0]) for match in sorted(found, key=lambda match: int(match[1]))}
    return {}


def next_part(path: Path) -> Path:
    """The name that the newest part will have when it is full."""
    return path.with_name(f"{path.stem}.{max(closed_parts(path), default=0) + 1:05d}{path.suffix}")


def roll_over(path: Path, most_bytes: int, fsync: bool) -> bool:
    """Whether the newest part has so many bytes: it is closed then; whoever writes the next line makes a new one."""
    with suppress(FileNotFoundError):
        if path.stat().st_size >= most_bytes:
            path.rename(next_part(path))
            if fsync:
                sync_folder(path.parent)
            return True
    return False


def open_parts(path: Path, first: int = 0) -> Iterator[tuple[int, BinaryIO]]:
    """The parts from number `first` on, each with its number, opened one after another; none where there is no file."""
    while True:
        for number, part in closed_parts(path).items():
            if number >= first:
                with part.open("rb") as file:
                    yield number, file
                first = number + 1
        newest = None
        with suppress(FileNotFoundError):  # it was rolled over and not begun again, or never begun
            newest = path.open("rb")
        # Rolled over after the parts were listed, what was opened is one of them or the one after: list them again.
        if all(number < first for number in closed_parts(path)):
            if newest is not None:
                with newest:
                    yield max(first, 1), newest
            return
        if newest is not None:
            newest.close()


def place_before_end(path: Path, nbytes: int) -> tuple[int, int]:
    """The part and the offset in it where the last `nbytes` begin, or the beginning of all parts."""
    sizes = [(number, file.seek(0, os.SEEK_END)) for number, file in open_parts(path)]
    for number, size in reversed(sizes):
        if size >= nbytes:
            return number, size - nbytes
        nbytes -= size
    return 0, 0

"""Prepared rows on the disk: of a set larger than memory a row is read where it is asked for.

`Picked` is the same of any long sequence: some of its items, in order, none of them held.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

Item = TypeVar("Item")
Source = TypeVar("Source")


class _ReadWhereAsked(Sequence[Item], ABC):
    """A sequence that makes each item when it is asked for; a slice is a list."""

    @abstractmethod
    def _at(self, index: int) -> Item:
        """The item at an index from 0 on."""

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    @override
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        indices = range(len(self))[index]  # raises IndexError, as a list does
        return self._at(indices) if isinstance(indices, int) else [self._at(each) for each in indices]


class StoredRows(_ReadWhereAsked[Item]):
    """The lines of files in order, a JSON object each, made into items by `make`; 8 bytes of memory a line."""

    def __init__(self, files: Sequence[Path], make: Callable[[Any], Item]) -> None:
        self._files, self._make = files, make
        self._starts = [_line_starts(file.read_bytes()) for file in files]
        self._first = np.cumsum([0, *(len(starts) - 1 for starts in self._starts)])

    @override
    def __len__(self) -> int:
        return int(self._first[-1])

    @override
    def _at(self, index: int) -> Item:
        segment = int(np.searchsorted(self._first, index, side="right")) - 1
        start, end = self._starts[segment][index - self._first[segment] :][:2]
        with self._files[segment].open("rb") as file:
            file.seek(start)
            return self._item(file.read(end - start))

    @override
    def __iter__(self) -> Iterator[Item]:
        for file, starts in zip(self._files, self._starts, strict=True):
            data = file.read_bytes()
            yield from (self._item(data[start:end]) for start, end in pairwise(starts))

    def _item(self, line: bytes) -> Item:
        return self._make(json.loads(line.decode("utf-8", "surrogatepass")))


class Picked(_ReadWhereAsked[Item]):
    """What `take` makes of the items of `source` at these indices."""

    def __init__(self, source: Sequence[Source], indices: Sequence[int], take: Callable[[Source], Item]) -> None:
        self._item, self._indices = (lambda index: take(source[index])), np.asarray(indices, np.int64)

    @override
    def __len__(self) -> int:
        return len(self._indices)

    @override
    def _at(self, index: int) -> Item:
        return self._item(int(self._indices[index]))


def _line_starts(data: bytes) -> NDArray[np.int64]:
    """Where each line begins, and where the last one ends."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
    return np.concatenate([[0], ends]).astype(np.int64)

"""Group commit: several callers share one write; what arrives while a group is written forms the next one.

    calls    a | b c d       | e
    writes     [a..........] [b c d........] [e....]

So no caller of small items waits for more than two writes, and the more callers there are the more of them one write
serves. A group is bounded: large items are written one by one, each without being copied together with others first.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate, takewhile
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class GroupCommit(Generic[Item, Result]):
    """Calls `write(items)` for one group at a time; it returns one result an item, or raises for all of them.

    The sizes of a group's items add up to at most `limit`; an item that is larger is a group of its own.
    """

    def __init__(
        self, write: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]], size: Callable[[Item], int], limit: int
    ) -> None:
        self._write, self._size, self._limit = write, size, limit
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Result:
        """Wait until `item` is written. What `write` raises, every caller of that group gets."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, written))
        if self._writing is None:
            self._writing = loop.create_task(self._write_groups())
        return await written

    async def _write_groups(self) -> None:
        try:
            while self._waiting:
                count = self._group()
                group, self._waiting = self._waiting[:count], self._waiting[count:]
                await self._write_group(group)
        finally:
            self._writing = None

    def _group(self) -> int:
        """How many of the items that wait are written next."""
        sizes = accumulate(self._size(item) for item, _ in self._waiting)
        return max(1, sum(1 for _ in takewhile(lambda size: size <= self._limit, sizes)))

    async def _write_group(self, group: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        futures = [written for _, written in group]
        try:
            results = await self._write([item for item, _ in group])
        except BaseException as error:
            for written in futures:
                if not written.done():  # a caller may have been cancelled
                    written.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            for written, result in zip(futures, results, strict=True):
                if not written.done():
                    written.set_result(result)

"""A process that appends rollouts without end and says which are stored: `python appending.py PLACE FIRST FSYNC`.

Several calls run at a time, of one to four rows of very different sizes, numbered from FIRST. A number is printed
when the call that carried it has returned. Segments are small, and compacted all the while.
"""

import asyncio
import sys
from collections.abc import Iterator
from itertools import count

import numpy as np

from unisd_rl.transport.rollouts import compaction, segments
from unisd_rl.transport.rollouts.ledger import Ledger
from unisd_rl.transport.rollouts.schema import encode
from unisd_rl.types import Rollout, Source

CALLS = 3


def row(number: int) -> Rollout:
    """What was stored under a number: from a few bytes to a megabyte of tokens."""
    length = 1 + number % 7
    return Rollout(
        number=number,
        id=f"p{number}",
        source=Source.POLICY,
        prompt_tokens=np.arange(4 ** (number % 10), dtype=np.int32) + number,
        views=(),
        completion_tokens=np.full(length, number, np.int32),
        logprobs=np.full(length, -1.0, np.float32),
        lineages=np.zeros(length, np.int32),
        versions=np.zeros(length, np.int32),
        finish_reason="stop",
        seed=number,
        actor="appending",
        started_s=0.0,
        finished_s=1.0,
    )


async def _append_for_ever(ledger: Ledger, numbers: Iterator[int]) -> None:
    for size in count():
        rows = [row(next(numbers)) for _ in range(1 + size % 4)]
        for number in await ledger.append(encode(rows)):
            print(number, flush=True)


async def _main(place: str, first: int, fsync: bool) -> None:
    segments.SEGMENT_BYTES, compaction._COMPACTED_BYTES = 128 << 10, 512 << 10
    ledger, numbers = Ledger(place, fsync), count(first)
    await asyncio.gather(*(_append_for_ever(ledger, numbers) for _ in range(CALLS)))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True"))

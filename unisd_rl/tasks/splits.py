"""What a benchmark's loader hands on: training and held-out problems, capped, and compared with the paper's sizes."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from unisd_rl.config import Benchmark
from unisd_rl.errors import UserError
from unisd_rl.tasks.benchmark_data import Raw
from unisd_rl.types import Example


def capped(
    config: Benchmark, origin: object, train: list[Example], evaluation: list[Example]
) -> tuple[list[Example], list[Example]]:
    """The first `train_examples` and `eval_examples` of each.

    Raises:
        UserError: nothing is held out, or an id occurs twice.
    """
    if not evaluation:
        raise UserError(f"{origin} has no held-out records of {config.type}")
    seen = set[str]()
    for example in (*train, *evaluation):
        if example.id in seen:
            raise UserError(f"{origin}: the id {example.id!r} occurs twice")
        seen.add(example.id)
    return train[: config.train_examples], evaluation[: config.eval_examples]


def by_split(records: Iterable[Raw], names: Sequence[str]) -> dict[str, list[Raw]]:
    """Records by their field `split`; `names` are those a source may have.

    Raises:
        UserError: a record has no split, or one of another name.
    """
    sorted_out: dict[str, list[Raw]] = {name: [] for name in names}
    for record in records:
        name = record.text("split")
        if name not in sorted_out:
            raise record.wrong(f"split = {name!r}, but it must be one of {', '.join(names)}")
        sorted_out[name].append(record)
    return sorted_out


def note_sizes(origin: object, found: Mapping[str, int], full: Mapping[str, int]) -> None:
    """Say on stderr where the data is not what the paper's figures come from."""
    for sentence in size_notes(origin, found, full):
        note_once(sentence)


@cache
def note_once(sentence: str) -> None:
    """Say something on stderr, once in a process: a run reads its data once to check it and once to use it."""
    print(f"note: {sentence}", file=sys.stderr)


def size_notes(origin: object, found: Mapping[str, int], full: Mapping[str, int]) -> list[str]:
    """One sentence for each split whose size is not the full data's."""
    return [
        f"{origin}: {found.get(split, 0):,} {split} problems, expected {size:,} in the full data; "
        "figures are not comparable with published ones"
        for split, size in full.items()
        if found.get(split, 0) != size
    ]

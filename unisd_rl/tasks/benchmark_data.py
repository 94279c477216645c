"""Data of the published benchmarks: where it comes from, and how much of it is used.

The number of problems is compared with the full data's, which the paper's figures come from.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from unisd_rl.config.task import Benchmark
from unisd_rl.errors import UserError
from unisd_rl.tasks.data_files import iter_split
from unisd_rl.tasks.source_records import SourceRecord, print_once, read_records
from unisd_rl.types import Example

NO_FILE = "give task.data the path of one, or leave it out to load from the hub"


def from_file(path: Path) -> list[SourceRecord]:
    """The records of a local copy: JSON Lines or one JSON array.

    Raises:
        UserError: the file is missing or empty, or something in it is no JSON object.
    """
    return read_records(path, NO_FILE)


def from_hub(
    hub: str, name: str | None, split: str, fields: Sequence[str], optional: Sequence[str] = ()
) -> list[SourceRecord]:
    """The records of one split on the hub; of their fields those in `fields`, and where they have them, `optional`.

    Raises:
        UserError: `datasets` cannot load them, or they lack one of `fields`.
    """
    local = "; set task.data to a local copy"
    return list(iter_split("task.hub", hub, name, split, fields, optional, no_data=local, no_field=local))


def by_split(records: Iterable[SourceRecord], names: Sequence[str]) -> dict[str, list[SourceRecord]]:
    """Records by their field `split`; `names` are those a source may have.

    Raises:
        UserError: a record has no split, or one of another name.
    """
    splits: dict[str, list[SourceRecord]] = {name: [] for name in names}
    for record in records:
        name = record.text("split")
        if name not in splits:
            raise record.wrong(f"split = {name!r}, but it must be one of {', '.join(names)}")
        splits[name].append(record)
    return splits


def take_first(
    config: Benchmark, origin: object, splits: Mapping[str, list[Example]], full: Mapping[str, int]
) -> tuple[list[Example], list[Example]]:
    """The first `train_examples` of the split `train`, if there is one, and `eval_examples` of the held-out one.

    Splits that are not of the `full` data's sizes, which the paper's figures come from, are told on stderr.

    Raises:
        UserError: nothing is held out, or an id occurs twice.
    """
    for sentence in size_warnings(origin, {split: len(examples) for split, examples in splits.items()}, full):
        print_once(sentence)
    train = splits.get("train", [])
    evaluation = next(examples for split, examples in splits.items() if split != "train")
    if not evaluation:
        raise UserError(f"{origin} has no held-out records of {config.type}")
    seen = set[str]()
    for example in (*train, *evaluation):
        if example.id in seen:
            raise UserError(f"{origin}: the id {example.id!r} occurs twice")
        seen.add(example.id)
    return train[: config.train_examples], evaluation[: config.eval_examples]


def size_warnings(origin: object, sizes: Mapping[str, int], full: Mapping[str, int]) -> list[str]:
    """One sentence for each split whose size is not the full data's."""
    return [
        f"{origin}: {sizes.get(split, 0):,} {split} problems, expected {size:,} in the full data; "
        "figures are not comparable with published ones"
        for split, size in full.items()
        if sizes.get(split, 0) != size
    ]

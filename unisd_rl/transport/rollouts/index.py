"""The index of a ledger, read from its files (`segments.py` says which there are, and what makes them count)."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from unisd_rl.storage.stores import FileStore
from unisd_rl.transport.rollouts.number_set import NumberSet
from unisd_rl.transport.rollouts.segments import INDEX, SEGMENTS, CompactedFile, Discarded, IndexEntry, Segment

_NAME = re.compile(r"(compacted-|discarded-)?(\d+)\.(arrows|parquet|jsonl?)(\.part)?")
_TRIES = 5  # of a reader, while the process that appends compacts


@dataclass(frozen=True)
class Index:
    """What a ledger holds, oldest first, and the names of files that do not count (any more)."""

    discarded: Discarded
    compacted: tuple[CompactedFile, ...]
    segments: tuple[Segment, ...]
    leftovers: tuple[str, ...]
    last_segment: int
    last_compacted: int


def read_index(files: FileStore) -> Index:
    """The index of a ledger, also while another process appends to it and compacts it."""
    for _ in range(_TRIES):
        with suppress(FileNotFoundError):  # it was compacted away after it was listed: list again
            return _read_index(files)
    return _read_index(files)


def _read_index(files: FileStore) -> Index:
    names = {f"{folder}/{name}": match for folder in (INDEX, SEGMENTS) for name in files.names(folder)
             if (match := _NAME.fullmatch(name))}  # fmt: skip
    indices = [name for name, match in names.items() if name.startswith(INDEX) and not match[4]]
    of_kind = {
        kind: {int(names[name][2]): name for name in indices if names[name][1] == kind}
        for kind in (None, "compacted-", "discarded-")
    }
    discards = [
        record for number, name in of_kind["discarded-"].items() if (record := _read_discarded(files, name, number))
    ]
    discarded = max(discards, key=lambda record: record.number, default=Discarded())
    compacted = [
        file
        for number, name in of_kind["compacted-"].items()
        if number not in discarded.compacted
        if (file := _read_compacted(files, name, number))
    ]
    replaced = NumberSet.from_ranges(
        (*discarded.segments.ranges, *(range_ for file in compacted for range_ in file.replaces.ranges))
    )
    one_commit = {  # of stores whose files cannot be appended to; or what a crash left
        int(match[2]): name for name, match in names.items()
        if name.startswith(SEGMENTS) and match[1] is None and match[3] == "arrows" and not match[4]
        if int(match[2]) not in of_kind[None]
    }  # fmt: skip
    segments = [
        segment
        for read, of_number in ((_read_segment, of_kind[None]), (_read_commit, one_commit))
        for number, name in of_number.items()
        if number not in replaced
        if (segment := read(files, name, number)).entries
    ]
    files_that_count: list[CompactedFile | Segment] = [*compacted, *segments]
    counting = {name for file in files_that_count for name in (file.file, file.index_file)} | {discarded.index_file}
    numbers = [(match[1], int(match[2])) for match in names.values()]
    return Index(
        discarded,
        tuple(sorted(compacted, key=lambda file: file.number)),
        tuple(sorted(segments, key=lambda segment: segment.number)),
        tuple(name for name in names if name not in counting),
        max((replaced.end - 1, *(number for kind, number in numbers if kind is None), 0)),
        max((discarded.compacted.end - 1, *(number for kind, number in numbers if kind == "compacted-"), 0)),
    )


def _read_segment(files: FileStore, name: str, number: int) -> Segment:
    # Before segments held several commits an entry had no offset.
    return Segment(number, name, [_entry(number, line, line.get("offset", 0)) for line in _lines(files, name)])


def _read_commit(files: FileStore, name: str, number: int) -> Segment:
    """A segment that begins with its line; none of its commit where the file does not."""
    with files.open(name) as file:
        line = file.readline() if file.read(1) == b"{" else b""
    if not line.endswith(b"\n"):
        return Segment(number, name)
    record = msgspec.json.decode(b"{" + line, type=dict[str, Any])
    return Segment(number, name, [_entry(number, record, offset=1 + len(line))])


def _entry(segment: int, line: Mapping[str, Any], offset: int) -> IndexEntry:
    numbers, lengths = tuple(line["numbers"]), tuple(line["lengths"])
    return IndexEntry(segment, numbers, lengths, offset, line["nbytes"], line["checksum"])


def _read_discarded(files: FileStore, name: str, number: int) -> Discarded | None:
    for line in _lines(files, name):
        numbers, compacted, segments = (
            NumberSet.from_ranges(line[kind]) for kind in ("numbers", "compacted", "segments")
        )
        return Discarded(number, numbers, line["tokens"], compacted, segments)
    return None


def _read_compacted(files: FileStore, name: str, number: int) -> CompactedFile | None:
    if not (lines := _lines(files, name)):
        return None
    (line,) = lines
    if "replaces" in line:
        ranges, tokens, replaces = line["numbers"], line["tokens"], line["replaces"]
    else:  # of a version that listed all rows, and removed the segments one by one
        ranges, tokens, replaces = NumberSet(line["numbers"]).ranges, sum(line["lengths"]), ()
    return CompactedFile(
        number,
        np.array(ranges, np.int64).reshape(-1, 2),
        tokens,
        line["nbytes"],
        line["checksum"],
        NumberSet.from_ranges(replaces),
    )


def _lines(files: FileStore, name: str) -> list[dict[str, Any]]:
    """The complete lines: a last one without its newline was cut short."""
    with files.open(name) as file:
        lines, newline, _ = file.read().rpartition(b"\n")
    return msgspec.json.Decoder(dict[str, Any]).decode_lines(lines + newline)

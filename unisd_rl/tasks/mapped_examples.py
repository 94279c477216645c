"""Examples on the disk: an Arrow file that `datasets` maps into memory, so that a set larger than memory works.

Few examples stay in memory. From 64 Mi characters on they are written as they come, a batch at a time, and one is read
where it is asked for. The file is gone as soon as it is mapped: what is left of it ends with the process.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, overload

from platformdirs import user_cache_path
from typing_extensions import override

from unisd_rl.errors import RunFailed
from unisd_rl.types import Example, Message

if TYPE_CHECKING:
    from datasets import Dataset

IN_MEMORY = 64 << 20
"""Characters of examples that are kept in memory."""
_BATCH = 1000


class MappedExamples(Sequence[Example]):
    """Examples as rows of a table that is mapped, and not in memory."""

    def __init__(self, rows: "Dataset") -> None:
        self._rows = rows

    @override
    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> "MappedExamples": ...
    @override
    def __getitem__(self, index: int | slice) -> "Example | MappedExamples":
        if isinstance(index, slice):
            return MappedExamples(self._rows.select(range(*index.indices(len(self)))))
        return _example(self._rows[index])

    @override
    def __iter__(self) -> Iterator[Example]:
        for batch in self._rows.iter(_BATCH):
            for values in zip(*batch.values(), strict=True):
                yield _example(dict(zip(batch, values, strict=True)))


def gathered(examples: Iterable[Example], most: int = IN_MEMORY) -> Sequence[Example]:
    """The examples in order: a list, or mapped where they have more than `most` characters.

    Raises:
        RunFailed: the disk does not take them.
    """
    kept, characters, coming = list[Example](), 0, iter(examples)
    for example in coming:
        kept.append(example)
        characters += sum(map(len, (example.question, example.demonstration, example.answer)))
        characters += sum(len(text) for turn in example.chat for text in turn.texts)
        if characters > most:
            return _mapped(chain(kept, coming))
    return kept


def _mapped(examples: Iterator[Example]) -> MappedExamples:
    import pyarrow as pa
    from datasets import Dataset

    schema = pa.schema({name: pa.string() for name in ("id", "question", "demonstration", "answer", "chat")})
    folder = user_cache_path("unisd-rl") / "records"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, path = tempfile.mkstemp(dir=folder, suffix=".arrow")
        try:
            with open(descriptor, "wb") as file, pa.ipc.new_stream(file, schema) as writer:
                while rows := [_row(example) for _, example in zip(range(_BATCH), examples, strict=False)]:
                    writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
            return MappedExamples(Dataset.from_file(path))
        finally:
            os.unlink(path)
    except OSError as error:
        raise RunFailed(f"the records are larger than memory and cannot be written to {folder}: {error}") from error


def _row(example: Example) -> dict[str, Any]:
    chat = [turn.texts for turn in example.chat]
    return {
        "id": example.id,
        "question": example.question,
        "demonstration": example.demonstration,
        "answer": example.answer,
        "chat": json.dumps(chat) if chat else "",
    }


def _example(row: dict[str, Any]) -> Example:
    chat = tuple(Message(*texts) for texts in json.loads(row["chat"])) if row["chat"] else ()
    return Example(row["id"], row["question"], row["demonstration"], row["answer"], chat)

"""The cache of prepared contexts: rows filed under everything they follow from, by content and not by name or date.

```
KEY/segment-00000.jsonl, segment-00001.jsonl, ...    rows 0.., 256.., ...; never changed once there
KEY/manifest.json                                    the inputs; rows and xxh3 of every file
```

Segments appear whole or not at all, and the manifest comes last. A process that is killed leaves whole segments; the
next one makes those that are missing. Several may work at once: of two that make the same segment, the first counts,
and both go on with that one.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import xxhash

import unisd_rl
from unisd_rl.contexts.prepared_rows import StoredRows
from unisd_rl.errors import UserError
from unisd_rl.storage.files import hash_file
from unisd_rl.tasks.task import Task
from unisd_rl.types import Example

_CODE = ("contexts", "tasks", "seeds.py", "models/tokenizer.py", "models/chat_template.py")
_CODE_FILES = (".py", ".toml")  # a table of data beside a module is part of it
WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_MODEL_FILES = (".json", ".jinja", ".txt", ".model")
SEGMENT_ROWS = 256
Row = Mapping[str, Any]
Item = TypeVar("Item")
Inputs = Mapping[str, Any]
"""Everything that cached rows follow from, by name: settings, seeds and fingerprints."""


def cache_key(inputs: Inputs) -> str:
    """The name of the folder for what follows from these inputs."""
    text = json.dumps(inputs, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def records_fingerprint(task: Task, examples: Sequence[Example]) -> str:
    """Of these problems: every field, and what the student reads."""
    texts = (
        text
        for example in examples
        for text in (
            example.id,
            example.question,
            example.demonstration,
            example.answer,
            *(part for message in task.student_messages(example) for part in message.texts),
        )
    )
    return _digest(text.encode("utf-8", "surrogatepass") for text in texts)


@cache
def code_fingerprint() -> str:
    """Of the modules that make, show and grade contexts: a better donor rule or another template is another result."""
    root = Path(unisd_rl.__file__).parent
    paths = (path for name in _CODE for path in [root / name, *(root / name).rglob("*")])
    files = {path for path in paths if path.suffix in _CODE_FILES and path.is_file()}
    return _digest(part for path in sorted(files) for part in (str(path.relative_to(root)).encode(), path.read_bytes()))


def model_fingerprint(path: Path | str, weights: bool) -> str:
    """Of a model folder: its configuration and tokenizer files, and with `weights` those too. Of a hub name: the name
    and the commit of the copy on this machine (fetched if there is none)."""
    folder = Path(path)
    if not folder.is_dir():
        return _digest([str(path).encode(), _hub_commit(str(path)).encode()])
    suffixes = (*_MODEL_FILES, *WEIGHT_FILES) if weights else _MODEL_FILES
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and file.suffix in suffixes]
    return _digest(part for file in files for part in (file.name.encode(), hash_file(xxhash.xxh3_128, file).digest()))


def _hub_commit(name: str) -> str:
    from transformers.utils import cached_file

    try:
        path = cached_file(name, "config.json")
    except OSError:  # whoever loads the model says what is wrong with it
        return ""
    return Path(path).parent.name if path else ""


def _digest(parts: Iterable[bytes]) -> str:
    state = xxhash.xxh3_128()
    for part in parts:
        state.update(len(part).to_bytes(8, "big"))  # tells ("ab", "c") from ("a", "bc")
        state.update(part)
    return state.hexdigest()


class Segments:
    """A cached table: `count` rows under `folder`, in segments of `size`."""

    def __init__(self, folder: Path, count: int, size: int = SEGMENT_ROWS) -> None:
        self.folder, self._count, self._size = folder, count, size

    @property
    def finished(self) -> bool:
        """Whether the manifest is there: every row was made."""
        return self._manifest.is_file()

    def ranges(self) -> tuple[range, ...]:
        """Rows of each segment."""
        starts = range(0, self._count, self._size)
        return tuple(range(start, min(start + self._size, self._count)) for start in starts)

    def has(self, segment: int) -> bool:
        """Whether this segment was made."""
        return self._path(segment).is_file()

    def read_or_make(self, inputs: Inputs, make: Callable[[int, range], Sequence[Row]]) -> list[Row]:
        """All rows in order; segments that are missing are made first: `make` gets a segment's number and its rows.

        Raises:
            UserError: the folder cannot be written, or a file was changed or is gone.
        """
        self.make_missing(inputs, make)
        return self.read()

    def make_missing(self, inputs: Inputs, make: Callable[[int, range], Sequence[Row]]) -> None:
        """The same without reading them."""
        if not self.finished:
            for number, indices in enumerate(self.ranges()):
                if not self.has(number):
                    self.write(number, make(number, indices))
            self.finish(inputs)

    def write(self, segment: int, rows: Sequence[Row]) -> None:
        """Put a segment in its place, unless another process was first.

        Raises:
            UserError: the folder cannot be written.
        """
        assert len(rows) == len(self.ranges()[segment]), "a segment holds all its rows"
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        # A lone half of a surrogate pair, which a record may hold, is no UTF-8.
        self._publish(self._path(segment), lines.encode("utf-8", "surrogatepass"))

    def finish(self, inputs: Inputs) -> None:
        """Write the manifest; people read the inputs there."""
        files = [self._path(number) for number in range(len(self.ranges()))]
        segments = [{"file": path.name, "xxh3": _checksum(path.read_bytes())} for path in files]
        manifest = {"rows": self._count, "inputs": dict(inputs), "segments": segments}
        self._publish(self._manifest, (json.dumps(manifest, indent=1) + "\n").encode())

    def read(self) -> list[Row]:
        """All rows in order, compared with the manifest's checksums.

        Raises:
            UserError: a file was changed or is gone.
        """
        rows: list[Row] = []
        for _, data in self._verified():
            rows += [json.loads(line) for line in data.decode("utf-8", "surrogatepass").split("\n") if line]
        return rows

    def stored(self, make: Callable[[Row], Item]) -> StoredRows[Item]:
        """All rows in order, compared in the same way, each read where it is asked for."""
        return StoredRows([path for path, _ in self._verified()], make)

    def _verified(self) -> Iterator[tuple[Path, bytes]]:
        manifest = json.loads(self._manifest.read_text(encoding="utf-8"))
        for segment in manifest["segments"]:
            path = self.folder / segment["file"]
            data = path.read_bytes() if path.is_file() else b""
            if _checksum(data) != segment["xxh3"]:
                raise UserError(f"{path} is not what was prepared: delete {self.folder} and it is made again")
            yield path, data

    @property
    def _manifest(self) -> Path:
        return self.folder / "manifest.json"

    def _path(self, segment: int) -> Path:
        return self.folder / f"segment-{segment:05d}.jsonl"

    def _publish(self, path: Path, data: bytes) -> None:
        """Under its name a file is whole: it gets there by a hard link, which never replaces."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".unfinished-") as file:
                os.fchmod(file.fileno(), 0o644)  # a cache may be shared by several users
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                with suppress(FileExistsError):
                    os.link(file.name, path)
        except OSError as error:
            raise UserError(
                f"prepared contexts cannot be written to {self.folder}: {error.strerror}; set contexts.cache"
            ) from None


def _checksum(data: bytes) -> str:
    return xxhash.xxh3_64_hexdigest(data)

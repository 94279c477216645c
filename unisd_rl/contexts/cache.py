"""A cached result on storage: rows in numbered files that appear whole or not at all, and a manifest that comes last.

```
KEY/segment-00000.jsonl, segment-00001.jsonl, ...    rows 0.., 256.., ...; never changed once there
KEY/manifest.json                                    what it was made from; rows and xxh3 of every file
```

A process that is killed leaves whole segments; the next one makes those that are missing. Several may work at once: of
two that make the same segment, the first counts, and both go on with that one.

What a cached result is filed under: everything that it follows from, by content and not by name or date.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import xxhash

import unisd_rl
from unisd_rl.contexts.views import Problems
from unisd_rl.errors import UserError
from unisd_rl.storage.files import hash_file
from unisd_rl.types import Example

_CODE = ("contexts", "tasks", "seeds.py", "models/tokenizer.py")

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")


def cache_key(made_from: Mapping[str, Any]) -> str:
    """The name of the folder for what was made from these."""
    text = json.dumps(made_from, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def records_fingerprint(task: Problems, examples: Sequence[Example]) -> str:
    """Of these problems: every field, and what the student reads."""
    texts = (
        text
        for one in examples
        for text in (
            one.id,
            one.question,
            one.demonstration,
            one.answer,
            *(part for message in task.student_messages(one) for part in (message.role, message.content)),
        )
    )
    return _digest(text.encode("utf-8", "surrogatepass") for text in texts)


@cache
def code_fingerprint() -> str:
    """Of the modules that make, show and grade contexts: a better donor rule or another template is another result."""
    root = Path(unisd_rl.__file__).parent
    files = [
        path for name in _CODE for path in ([root / name] if name.endswith(".py") else (root / name).rglob("*.py"))
    ]
    return _digest(part for path in sorted(files) for part in (str(path.relative_to(root)).encode(), path.read_bytes()))


def model_fingerprint(path: Path | str, weights: bool) -> str:
    """Of a model folder: its configuration and tokenizer files, and with `weights` those too. Of a hub name: the name
    and the commit of the copy on this machine (fetched if there is none)."""
    folder = Path(path)
    if not folder.is_dir():
        return _digest([str(path).encode(), _hub_commit(str(path)).encode()])
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and _counts(file, weights)]
    return _digest(part for file in files for part in (file.name.encode(), hash_file(xxhash.xxh3_128(), file).digest()))


def _counts(file: Path, weights: bool) -> bool:
    return weights if file.suffix in _WEIGHTS else file.suffix in (".json", ".jinja", ".txt", ".model")


def _hub_commit(name: str) -> str:
    from transformers.utils import cached_file

    try:
        found = cached_file(name, "config.json")
    except OSError:  # whoever loads the model says what is wrong with it
        return ""
    return Path(found).parent.name if found else ""


def _digest(parts: Iterable[bytes]) -> str:
    state = xxhash.xxh3_128()
    for part in parts:
        state.update(len(part).to_bytes(8, "big"))  # tells ("ab", "c") from ("a", "bc")
        state.update(part)
    return state.hexdigest()


Row = Mapping[str, Any]
SEGMENT_ROWS = 256


class Segments:
    """`count` rows under `folder`, in segments of `size`."""

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

    def write(self, segment: int, rows: Sequence[Row]) -> None:
        """Put a segment in its place, unless another process was first.

        Raises:
            UserError: the folder cannot be written.
        """
        assert len(rows) == len(self.ranges()[segment]), "a segment holds all its rows"
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        # A lone half of a surrogate pair, which a record may hold, is no UTF-8.
        self._publish(self._path(segment), lines.encode("utf-8", "surrogatepass"))

    def finish(self, about: Mapping[str, Any]) -> None:
        """Write the manifest; `about` says what the rows were made from, for people to read."""
        files = [self._path(number) for number in range(len(self.ranges()))]
        segments = [{"file": path.name, "xxh3": _checksum(path.read_bytes())} for path in files]
        manifest = {"rows": self._count, "made_from": dict(about), "segments": segments}
        self._publish(self._manifest, (json.dumps(manifest, indent=1) + "\n").encode())

    def read(self) -> list[Row]:
        """All rows in order, compared with the manifest's checksums.

        Raises:
            UserError: a file was changed or is gone.
        """
        manifest = json.loads(self._manifest.read_text(encoding="utf-8"))
        rows: list[Row] = []
        for segment in manifest["segments"]:
            path = self.folder / segment["file"]
            data = path.read_bytes() if path.is_file() else b""
            if _checksum(data) != segment["xxh3"]:
                raise UserError(f"{path} is not what was prepared: delete {self.folder} and it is made again")
            rows += [json.loads(line) for line in data.decode("utf-8", "surrogatepass").split("\n") if line]
        return rows

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

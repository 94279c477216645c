"""A cached result on storage: rows in numbered files that appear whole or not at all, and a manifest that comes last.

```
KEY/segment-00000.jsonl, segment-00001.jsonl, ...    rows 0.., 256.., ...; never changed once there
KEY/manifest.json                                    what it was made from; rows and xxh3 of every file
```

A process that is killed leaves whole segments; the next one makes those that are missing. Several may work at once: of
two that make the same segment, the first counts, and both go on with that one.
"""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import xxhash

from unisd_rl.errors import UserError

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

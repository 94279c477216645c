"""Named tensors on storage, in safetensors files of bounded size, with a manifest that is written last.

A folder without its manifest was cut short and is not an archive. Nothing is unpickled.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import xxhash
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from unisd_rl.errors import RunFailed

_MANIFEST, _FILE_BYTES, _READ_BYTES = "manifest.json", 1 << 30, 1 << 24


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """One file: its tensors' names, and the xxh3 checksum of its bytes."""

    name: str
    checksum: str
    tensors: tuple[str, ...]


def write_archive(folder: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write copies of `tensors`, about 1 GiB of them in memory at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index, group in enumerate(_groups(tensors)):
        path = folder / f"tensors-{index:05d}.safetensors"
        save_file(group, path)
        files.append(ArchiveFile(path.name, _checksum(path), tuple(group)))
    partial = folder / f"{_MANIFEST}.partial"
    partial.write_text(json.dumps([asdict(file) for file in files]), encoding="utf-8")
    partial.rename(folder / _MANIFEST)


class Archive:
    """An archive that is whole: every checksum is compared when it is opened."""

    def __init__(self, folder: Path) -> None:
        """Open and verify.

        Raises:
            RunFailed: the folder is cut short or damaged, naming the file.
        """
        manifest = folder / _MANIFEST
        if not manifest.is_file():
            raise RunFailed(f"{folder} has no {_MANIFEST}: it was cut short while it was written")
        self._folder, self._file_of = folder, dict[str, str]()
        for raw in json.loads(manifest.read_text(encoding="utf-8")):
            file = ArchiveFile(**raw)
            if not (folder / file.name).is_file() or _checksum(folder / file.name) != file.checksum:
                raise RunFailed(f"{folder / file.name} is not what was written: its checksum differs")
            self._file_of |= dict.fromkeys(file.tensors, file.name)

    @property
    def names(self) -> frozenset[str]:
        """Of all tensors."""
        return frozenset(self._file_of)

    def tensor(self, name: str) -> Tensor:
        """The tensor of this name.

        Raises:
            RunFailed: there is none; the checkpoint is of another model or another set-up.
        """
        if name not in self._file_of:
            raise RunFailed(f"{self._folder} holds no {name}: it is of another model or another configuration")
        with safe_open(self._folder / self._file_of[name], framework="pt") as file:
            return file.get_tensor(name)


def _groups(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    group: dict[str, Tensor] = {}
    for name, tensor in tensors:
        if group and sum(kept.nbytes for kept in group.values()) + tensor.nbytes > _FILE_BYTES:
            yield group
            group = {}
        group[name] = tensor.to("cpu", copy=True).contiguous()
    if group:
        yield group


def _checksum(path: Path) -> str:
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()

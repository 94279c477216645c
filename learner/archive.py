"""Named tensors on storage, in safetensors files of bounded size, with an index that is written last.

A folder without its index was cut short and is not an archive. Whether its bytes are those that were written is for the
manifest of the whole checkpoint (unisd_rl/storage/checkpoints.py). Nothing is unpickled.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from unisd_rl.errors import RunFailed

_INDEX, _FILE_BYTES = "index.json", 1 << 30


def write_archive(folder: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write copies of `tensors`, about 1 GiB of them in memory at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors_of: dict[str, list[str]] = {}
    for number, group in enumerate(_groups(tensors)):
        path = folder / f"tensors-{number:05d}.safetensors"
        save_file(group, path)
        tensors_of[path.name] = list(group)
    partial = folder / f"{_INDEX}.partial"
    partial.write_text(json.dumps(tensors_of), encoding="utf-8")
    partial.rename(folder / _INDEX)


class Archive:
    """An archive with all its files."""

    def __init__(self, folder: Path) -> None:
        """Open it.

        Raises:
            RunFailed: the folder is cut short, or lacks a file, naming it.
        """
        index = folder / _INDEX
        if not index.is_file():
            raise RunFailed(f"{folder} has no {_INDEX}: it was cut short while it was written")
        self._folder, self._file_of = folder, dict[str, str]()
        for name, tensors in json.loads(index.read_text(encoding="utf-8")).items():
            if not (folder / name).is_file():
                raise RunFailed(f"{folder / name} is missing")
            self._file_of |= dict.fromkeys(tensors, name)

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

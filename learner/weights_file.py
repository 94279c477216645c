"""A safetensors file that is written tensor by tensor, so that nobody holds a copy of all weights for it.

```
 length of the header   8 bytes, little-endian
 header                 JSON: name -> dtype, shape, first and last byte of each tensor in what follows
 tensors                their bytes, the widest dtypes first, so that each is aligned, and by name
```

The library's own `save_file` wants all tensors at once: under LoRA these are merged copies of the whole model, under
ZeRO-3 gathered ones. The bytes are those that it would write.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import TensorSpec
from torch import Tensor

from learner.sharding import NamedTensors

Layout = Mapping[str, tuple[torch.dtype, torch.Size]]
"""The dtype and the full shape of each tensor, by its name."""
_LENGTH_BYTES = 8
_METADATA = {"format": "pt"}


def write_weights(path: Path, layout: Layout, tensors: NamedTensors) -> None:
    """Write `tensors`, each valid until the next; `layout` has every one of them.

    Raises:
        OSError: the disk does not take it.
    """
    header, start_of = _header(layout)
    written = 0
    with path.open("wb") as file:
        file.write(header)
        for name, tensor in tensors:
            assert (tensor.dtype, tensor.shape) == layout[name], f"{name} is not as its layout says"
            file.seek(len(header) + start_of[name])
            file.write(_bytes(tensor))
            written += 1
    assert written == len(layout), f"{written} of {len(layout)} tensors were written"


def _header(layout: Layout) -> tuple[bytes, dict[str, int]]:
    """The bytes before the tensors, and where each tensor begins after them."""
    entries: dict[str, object] = {"__metadata__": _METADATA}
    starts, end = dict[str, int](), 0
    for name, (dtype, shape) in sorted(layout.items(), key=lambda entry: (-entry[1][0].itemsize, entry[0])):
        starts[name], end = end, end + shape.numel() * dtype.itemsize
        code = TensorSpec(dtype=str(dtype).removeprefix("torch."), shape=shape, data_ptr=0, data_len=0).dtype
        entries[name] = {"dtype": code, "shape": list(shape), "data_offsets": [starts[name], end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text, starts


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())

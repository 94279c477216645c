"""Attention over packed rows: many sequences end to end in one row, or the prefix tree of them.

```
 Inputs.packing --keyword--> decoder --> layers --> packed_attention           one call a layer, no mask, no padding
                                                    |-- CUDA, 16 bits: FlexAttention, one kernel for the row
                                                    +-- elsewhere: scaled_dot_product_attention, block by block
```

Row position q sees row position k exactly if `k <= q < subtree_end[k]` and, under a window of W tokens,
`depth[q] - depth[k] < W` (`prefix_tree.py`). Sequences end to end are a forest in which nobody shares anything.

The function is registered in transformers' attention interface under `PACKED`. Its name is unknown to the mask
interface, so transformers builds no mask and leaves the meaning of a row to the keyword `packing`. Whether a model
takes part is not looked up but tried at load time (`layout.py`).

Shape letters: T tokens of the row, S segments, h query heads, g key heads, d head width, q rows of a block of queries,
k rows that it sees.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from learner.prefix_tree import Row, Span

PACKED = "unisd_packed"
_UNSUPPORTED = ("softcap", "s_aux", "position_bias")
_KERNEL_HEAD_WIDTH = 256
_MASKED_ROWS = 256
"""Rows of a block with a mask, at most: masks stay small."""


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the sequences of a packed row lie, and what each token sees."""

    lengths: tuple[int, ...]
    """Tokens of each segment; T in all. A segment is a sequence, or what it does not share with those before it."""
    prefixes: tuple[tuple[Span, ...], ...]
    """Row positions that a segment shares with those before it, in order of depth; none where it is a sequence."""
    starts_S: Tensor
    """int32, S + 1 entries: where each segment begins, and T."""
    depth_T: Tensor
    """long: each token's position in its own sequence."""
    subtree_end_T: Tensor
    """long: the row position behind the last one that sees this one."""
    _made: dict[object, Any] = field(default_factory=dict, repr=False, compare=False)
    """Blocks and masks, which all layers of a pass have in common, by their windows."""

    @staticmethod
    def of(row: Row, device: torch.device) -> "Packing":
        """The packing of a row of at least one token."""
        starts = torch.tensor([0, *(stop for _, stop in row.segments)], dtype=torch.int32).to(device)
        depth, end = (torch.from_numpy(array).to(device) for array in (row.depth_T, row.subtree_end_T))
        return Packing(tuple(stop - start for start, stop in row.segments), row.prefixes, starts, depth, end)

    def keywords(self) -> dict[str, object]:
        """What a model's forward pass over the row is told beside the ids."""
        return {"position_ids": self.depth_T.unsqueeze(0), "packing": self}

    def once(self, key: object, make: Callable[[], Any]) -> Any:
        """What `make` returns, made at the first call with this key: each layer needs the same."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


class NotPackable(Exception):
    """The model's attention asks for something that packed rows do not have."""


def packed_attention(
    module: nn.Module,
    query_1hTd: Tensor,
    key_1gTd: Tensor,
    value_1gTd: Tensor,
    attention_mask: Tensor | None,
    packing: Packing | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention along each path: `output_1Thd`. A window of W lets a token see itself and W - 1 before it.

    Raises:
        NotPackable: no packing arrived, or the model wants a mask, a soft cap, sinks, a bias, or to look ahead.
    """
    if packing is None or attention_mask is not None or len(query_1hTd) != 1:
        raise NotPackable("a packed row needs its packing, and no mask")
    wanted = [name for name in _UNSUPPORTED if others.get(name) is not None]
    if wanted or not getattr(module, "is_causal", True):
        raise NotPackable(f"{type(module).__name__} wants {', '.join(wanted) or 'to look ahead'}")
    attend = _flex if _has_kernel(query_1hTd, value_1gTd) else _blockwise
    return attend(query_1hTd, key_1gTd, value_1gTd, packing, scaling, sliding_window), None


AttentionInterface.register(PACKED, packed_attention)


def _has_kernel(query: Tensor, value: Tensor) -> bool:
    narrow = query.dtype in (torch.bfloat16, torch.float16)
    width = query.shape[-1]
    return query.is_cuda and narrow and width == value.shape[-1] <= _KERNEL_HEAD_WIDTH and width % 8 == 0


@dataclass(frozen=True, slots=True)
class _Block:
    """Queries that are computed together, rows `start` to `stop`, and the rows before them that they see."""

    start: int
    stop: int
    prefix: tuple[Span, ...]
    pieces: tuple[tuple[int, int, int], ...]
    """The same rows: (which block, from where in it, to where)."""
    masked: bool
    """Few tokens behind a longer prefix, of one segment or several: with a mask. Else one path to its end."""


def _blockwise(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float | None, window: int | None
) -> Tensor:
    """Block by block of queries: nothing is padded, and copied only where a block sees more than its own rows."""
    blocks: list[_Block] = packing.once(("blocks", window), lambda: _blocks(packing, window))
    sizes = [block.stop - block.start for block in blocks]
    # Split once: the backward pass of a slice of the row would write a whole row of zeros for each block.
    queries, keys, values = (tensor.split(sizes, 2) for tensor in (query, key, value))
    parts = [
        _attend(place, block, (queries, keys, values), packing, window, scale=scaling, enable_gqa=True)
        for place, block in enumerate(blocks)
    ]
    return torch.cat(parts, 2).transpose(1, 2).contiguous()


def _attend(
    place: int, block: _Block, rows: Sequence[Sequence[Tensor]], packing: Packing, window: int | None, **options: Any
) -> Tensor:
    if block.masked:
        query, (key, value) = rows[0][place], (_path(block, place, parts) for parts in rows[1:])
        mask = packing.once((place, window, query.dtype), lambda: _mask(packing, block, window, query.dtype))
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, **options)
    # The prefix asks too, and its answers are left out: the kernel's own causal mask begins at the first key.
    query, key, value = (_path(block, place, parts) for parts in rows)
    length, before = query.shape[2], query.shape[2] - (block.stop - block.start)
    answers = scaled_dot_product_attention(query, key, value, **_causal(length, window, query.device), **options)
    return answers[:, :, before:] if before else answers


def _path(block: _Block, place: int, parts: Sequence[Tensor]) -> Tensor:
    """The rows of a block behind those of its prefix; `parts` are the rows of each block."""
    if not block.pieces:
        return parts[place]
    return torch.cat([*(parts[at][:, :, start:stop] for at, start, stop in block.pieces), parts[place]], 2)


def _causal(length: int, window: int | None, device: torch.device) -> dict[str, Any]:
    if window is None or window >= length:
        return {"is_causal": True}
    return {"attn_mask": torch.ones(length, length, dtype=torch.bool, device=device).tril_().triu_(1 - window)}


def _mask(packing: Packing, block: _Block, window: int | None, dtype: torch.dtype) -> Tensor:
    """`mask_qk` to be added to the scores: 0 where a row of the block sees a row of its prefix or its own, else
    -inf."""
    spans = [*block.prefix, (block.start, block.stop)]
    key_k = torch.cat([torch.arange(start, stop, device=packing.depth_T.device) for start, stop in spans])
    query_q = key_k[-(block.stop - block.start) :]
    seen_qk = sees(query_q[:, None], key_k[None], packing.depth_T, packing.subtree_end_T, window)
    return torch.zeros(seen_qk.shape, dtype=dtype, device=key_k.device).masked_fill_(~seen_qk, -torch.inf)


def sees(query: Tensor, key: Tensor, depth_T: Tensor, subtree_end_T: Tensor, window: int | None) -> Tensor:
    """Whether row positions `query` see row positions `key` (bool, broadcast): the definition of a row's attention."""
    seen = (key <= query) & (query < subtree_end_T[key])
    return seen if window is None else seen & (depth_T[query] - depth_T[key] < window)


def _blocks(packing: Packing, window: int | None) -> list[_Block]:
    """The row's segments; short ones that follow each other behind one long prefix are one block."""
    blocks: list[_Block] = []
    behind = 0  # tokens on the path before the last block, if it is masked
    for (start, stop), prefix in zip(pairwise(packing.starts_S.tolist()), packing.prefixes, strict=True):
        shared = sum(last - first for first, last in prefix)
        if behind and shared >= behind and stop - blocks[-1].start <= min(behind, _MASKED_ROWS):
            blocks[-1] = replace(blocks[-1], stop=stop)
            continue
        masked = stop - start <= min(shared, _MASKED_ROWS)
        behind = shared if masked else 0
        seen = prefix if window is None else _last(prefix, window - 1)
        blocks.append(_Block(start, stop, seen, tuple(_pieces(blocks, seen)), masked))
    return blocks


def _last(spans: Sequence[Span], tokens: int) -> tuple[Span, ...]:
    """The last tokens of spans."""
    kept: list[Span] = []
    for start, stop in reversed(spans):
        if tokens > 0:
            kept.append((max(start, stop - tokens), stop))
            tokens -= stop - start
    return tuple(reversed(kept))


def _pieces(blocks: Sequence[_Block], spans: Sequence[Span]) -> Iterator[tuple[int, int, int]]:
    """The rows of spans as (which block, from where in it, to where)."""
    starts = [block.start for block in blocks]
    for start, stop in spans:
        for place in range(bisect_right(starts, start) - 1, bisect_left(starts, stop)):
            block = blocks[place]
            yield place, max(start, block.start) - block.start, min(stop, block.stop) - block.start


def _flex(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float | None, window: int | None
) -> Tensor:
    """One kernel for the row. Its mask is a list of the blocks of 128 by 128 tokens that are not empty."""
    attend, block_mask = _compiled_flex()
    length, device = query.shape[2], query.device
    depth_T, subtree_end_T = packing.depth_T, packing.subtree_end_T  # a compiled mask may close over tensors

    def seen(batch: Tensor, head: Tensor, query_row: Tensor, key_row: Tensor) -> Tensor:
        return sees(query_row, key_row, depth_T, subtree_end_T, window)

    mask = packing.once(("flex", window), lambda: block_mask(seen, None, None, length, length, device=device))
    # Without the option rows of fewer than 128 tokens would take a kernel for decoding, which is compiled beside it.
    options = {"FORCE_USE_FLEX_ATTENTION": True}
    output: Tensor = attend(query, key, value, block_mask=mask, scale=scaling, enable_gqa=True, kernel_options=options)
    return output.transpose(1, 2).contiguous()


@cache
def _compiled_flex() -> tuple[Callable[..., Tensor], Callable[..., Any]]:
    """FlexAttention and the function that makes its masks, for rows of any length."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    return torch.compile(flex_attention, dynamic=True), torch.compile(create_block_mask, dynamic=True)

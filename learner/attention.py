"""Attention over packed rows: many sequences end to end in one row, and none sees another.

```
 Inputs.packing --keyword--> decoder --> layers --> packed_attention      one call a layer, no mask, no padding
                                                    |-- CUDA, 16 bits: torch's variable-length flash kernel
                                                    +-- elsewhere: scaled_dot_product_attention, sequence by sequence
```

The function is registered in transformers' attention interface under `PACKED`. Its name is unknown to the mask
interface, so transformers builds no mask and leaves the meaning of a row to the keyword `packing`. Whether a model
takes part is not looked up but tried at load time (`reads_packed_rows`).

Shape letters: T tokens of the row, S sequences, h query heads, g key heads, d head width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from unisd_rl.errors import UserError

PACKED = "unisd_packed"
_LAYERS = {"full_attention", "sliding_attention"}
_UNSUPPORTED = ("softcap", "s_aux", "position_bias")
_TRIED = (3, 5)
_TRIED_WINDOW = 2
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
_FLASH_HEAD_WIDTH = 256


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the sequences of a packed row lie."""

    lengths: tuple[int, ...]
    """Tokens of each; T in all."""
    starts_S: Tensor
    """int32, S + 1 entries: where each begins, and T."""
    positions_T: Tensor
    """long: each token's position in its own sequence."""

    @staticmethod
    def of(lengths: Sequence[int], device: torch.device) -> "Packing":
        """The packing of sequences of these lengths, each at least 1."""
        starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        positions = torch.cat([torch.arange(length) for length in lengths])
        return Packing(tuple(lengths), starts.to(device), positions.to(device))

    def keywords(self) -> dict[str, object]:
        """What a model's forward pass over the row is told beside the ids."""
        return {"position_ids": self.positions_T.unsqueeze(0), "packing": self}


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
    """Causal attention within each sequence: `output_1Thd`. A window of W lets a token see itself and W - 1 before it.

    Raises:
        NotPackable: no packing arrived, or the model wants a mask, a soft cap, sinks, a bias, or to look ahead.
    """
    if packing is None or attention_mask is not None or len(query_1hTd) != 1:
        raise NotPackable("a packed row needs its packing, and no mask")
    wanted = [name for name in _UNSUPPORTED if others.get(name) is not None]
    if wanted or not getattr(module, "is_causal", True):
        raise NotPackable(f"{type(module).__name__} wants {', '.join(wanted) or 'to look ahead'}")
    attend = _flash if _has_flash(query_1hTd, value_1gTd) else _each
    return attend(query_1hTd, key_1gTd, value_1gTd, packing, scaling, sliding_window), None


AttentionInterface.register(PACKED, packed_attention)


def choose_attention(model: PreTrainedModel, packed: bool | None, model_path: Path) -> bool:
    """Let the model read packed rows if it can (`packed` None), must or must not; returns whether it does.

    Raises:
        UserError: `packed` is True and the model cannot.
    """
    if packed is not False and reads_packed_rows(model):
        model.set_attn_implementation(PACKED)
        return True
    if packed:
        raise UserError(
            f"learner.packed = true, but {type(model).__name__} of model.path = {model_path} cannot read packed rows: "
            "leave learner.packed out, and its sequences are padded"
        )
    return False


@torch.no_grad()
def reads_packed_rows(model: PreTrainedModel) -> bool:
    """Whether two short sequences in one row give the hidden states that each gives alone under the model's own
    attention. Windows are two tokens wide meanwhile, so that they show. The model is left as it was found.
    """
    before, device, config = model.config._attn_implementation, model.device, model.config.get_text_config()
    if not set(getattr(config, "layer_types", None) or ()) <= _LAYERS:
        return False
    ids = [torch.arange(length, device=device) % config.vocab_size for length in _TRIED]
    with _narrow_windows(model):
        alone = [_states(model, ids_T) for ids_T in ids]
        try:
            model.set_attn_implementation(PACKED)
            if config._attn_implementation != PACKED:
                return False  # not through the interface: transformers would mask the whole row, at a quadratic cost
            together = _states(model, torch.cat(ids), **Packing.of(_TRIED, device).keywords())
        except (NotPackable, TypeError):  # a TypeError: its forward pass knows no further keywords
            return False
        finally:
            model.set_attn_implementation(before)
    expected = torch.cat(alone)
    error = float((together - expected).abs().max())
    return error <= _TOLERANCE.get(expected.dtype, 5e-2) * float(expected.abs().max())


def _states(model: PreTrainedModel, ids_T: Tensor, **keywords: Any) -> Tensor:
    return model.get_decoder()(input_ids=ids_T.unsqueeze(0), use_cache=False, **keywords).last_hidden_state[0]


@contextmanager
def _narrow_windows(model: PreTrainedModel) -> Iterator[None]:
    """Sliding windows, in the configuration (from where masks are made) and in the layers, at two tokens."""
    owners = [model.config.get_text_config(), *model.modules()]
    windows = [(owner, owner.sliding_window) for owner in owners if getattr(owner, "sliding_window", None)]
    for owner, _ in windows:
        owner.sliding_window = _TRIED_WINDOW
    try:
        yield
    finally:
        for owner, window in windows:
            owner.sliding_window = window


def _has_flash(query: Tensor, value: Tensor) -> bool:
    narrow = query.dtype in (torch.bfloat16, torch.float16)
    width = query.shape[-1]
    return query.is_cuda and narrow and width == value.shape[-1] <= _FLASH_HEAD_WIDTH and width % 8 == 0


def _each(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float | None, window: int | None
) -> Tensor:
    """Sequence by sequence: nothing is copied, nothing is padded."""
    lengths = list(packing.lengths)
    parts = [
        scaled_dot_product_attention(
            *part, **_causal(part[0].shape[2], window, query.device), scale=scaling, enable_gqa=True
        )
        for part in zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    ]
    return torch.cat(parts, 2).transpose(1, 2).contiguous()


def _causal(length: int, window: int | None, device: torch.device) -> dict[str, Any]:
    if window is None or window >= length:
        return {"is_causal": True}
    return {"attn_mask": torch.ones(length, length, dtype=torch.bool, device=device).tril_().triu_(1 - window)}


def _flash(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float | None, window: int | None
) -> Tensor:
    """One kernel for the row. It counts the tokens before a token, without the token itself."""
    from torch.nn.attention.varlen import varlen_attn

    longest = max(packing.lengths)
    output = varlen_attn(
        *(tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value)),
        packing.starts_S,
        packing.starts_S,
        longest,
        longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=True,
    )
    return output.unsqueeze(0)

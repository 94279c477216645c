"""How the sequences of a pass are laid out, and which layouts a model can be read in: found by trying it at load time.

```
 tree     one row, their prefix tree: what several begin with is read once
 packed   one row, end to end: a pass computes the tokens it reads, nothing else
 padded   one row a sequence, as long as the longest
```

All give the same numbers but for rounding. Passes that share little are packed in a tree's stead.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from learner.attention import PACKED, NotPackable, Packing
from learner.prefix_tree import PrefixTree
from unisd_rl.config.learner import Layout

_LAYERS = {"full_attention", "sliding_attention"}
_TRIED_WINDOW = 2
_TRIED_PACKED = ((0, 1, 2), (0, 1, 2, 3, 4))
_TRIED_TREE = (
    (0, 1, 2, 3, 4, 5),
    (0, 1, 2, 3, 6, 7),  # a branch; its first token sees one before the branch in the narrowest window
    (0, 1, 2, 3, 6, 8, 9),  # a branch in a branch
    (0, 1, 10, 11, 12, 13, 14),  # longer than what it shares
    (15, 16),
)
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


def choose_layout(model: PreTrainedModel, best: Layout) -> Layout:
    """The first layout, from `best` on, in which the model can be read; it is ready to be read in it."""
    if best == "padded" or not reads_rows(model, "packed"):
        return "padded"
    layout: Layout = "tree" if best == "tree" and reads_rows(model, "tree") else "packed"
    model.set_attn_implementation(PACKED)
    return layout


def reads_rows(model: PreTrainedModel, layout: Layout) -> bool:
    """Whether a few short sequences in one row give the hidden states that each gives alone under the model's own
    attention, and a gradient. Windows are two tokens wide meanwhile, so that they show. The model is left as it was
    found.
    """
    before, device, config = model.config._attn_implementation, model.device, model.config.get_text_config()
    if not set(getattr(config, "layer_types", None) or ()) <= _LAYERS:
        return False
    tried = _TRIED_TREE if layout == "tree" else _TRIED_PACKED
    sequences = [torch.tensor(ids, device=device) % config.vocab_size for ids in tried]
    with _narrow_windows(model):
        with torch.no_grad():
            expected = torch.cat([_states(model, ids_T) for ids_T in sequences])
        try:
            model.set_attn_implementation(PACKED)
            if config._attn_implementation != PACKED:
                return False  # not through the interface: transformers would mask the whole row, at a quadratic cost
            found = _read(model, sequences, layout)
            (gradient,) = torch.autograd.grad(found.float().square().sum(), [model.get_input_embeddings().weight])
        except (NotPackable, TypeError, RuntimeError) as error:
            # TypeError: its forward pass knows no further keywords; RuntimeError: a kernel that this GPU cannot run.
            print(f"layout {layout} is not for {type(model).__name__}: {error}", file=sys.stderr)
            return False
        finally:
            model.set_attn_implementation(before)
    apart = float((found.detach() - expected).abs().max())
    close = apart <= _TOLERANCE.get(expected.dtype, 5e-2) * float(expected.abs().max())
    return close and bool(gradient.isfinite().all())


def _read(model: PreTrainedModel, sequences: Sequence[Tensor], layout: Layout) -> Tensor:
    """The hidden states of sequences that are read in one row, one after the other."""
    arrays = [ids_T.int().cpu().numpy() for ids_T in sequences]
    unshared = PrefixTree.unshared([len(array) for array in arrays])
    row = (PrefixTree.of(arrays, least_shared=1) if layout == "tree" else unshared).row()
    path = torch.from_numpy(np.concatenate(row.paths)).to(model.device)
    ids_T = torch.zeros(len(row.depth_T), dtype=torch.long, device=model.device)
    ids_T[path] = torch.cat(list(sequences))
    return _states(model, ids_T, **Packing.of(row, model.device).keywords())[path]


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

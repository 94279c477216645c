"""The map from hidden states to logits, with what some models put around it: a bias, a scale, a soft cap.

`logits = scale * (h W^T + b)`, and with a cap `logits = cap * tanh(scale * (h W^T + b) / cap)`. `ScaledHead` is the
same at one softmax temperature, arranged so that scale and temperature cost no pass over the vocabulary.

The matmuls with a head, each in the fastest way its device and type have, and no float32 copy of it.

On the CPU they run in float32 over tiles of the vocabulary, so that a bfloat16 head is cast a tile at a time. The
logits go through oneDNN where torch was built with it, the gradients only on processors with AVX-512: there it is 1.6
to 2 times as fast as `torch.mm` where the BLAS that torch links has no wide kernels; with AVX2 `torch.mm` is 1.2 to 1.5
times as fast as oneDNN. On a GPU half-precision inputs are multiplied as they are, with float32 sums and results;
anything else is multiplied in float32.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)

# Vocabulary entries of one tile on the CPU: a tile of the head (8 MiB at 1,024 hidden) and its matmuls stay small.
_TILE = 2048


def uses_half_matmul(device: torch.device, *dtypes: torch.dtype) -> bool:
    """Whether operands of these types are multiplied as they are, in half precision with float32 sums and results."""
    return device.type == "cuda" and len(set(dtypes)) == 1 and dtypes[0] in HALF


def logits_(hidden_CH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, out_CV: Tensor) -> None:
    """`out = hidden W^T + bias`; `hidden` in the weight's type where `uses_half_matmul`, else float32."""
    if uses_half_matmul(out_CV.device, hidden_CH.dtype, weight_VH.dtype):
        torch.mm(hidden_CH, weight_VH.t(), out_dtype=torch.float32, out=out_CV)
        if bias_V is not None:
            out_CV.add_(bias_V)
    elif out_CV.device.type != "cpu":
        weight_VH = weight_VH.float()
        if bias_V is None:
            torch.mm(hidden_CH, weight_VH.t(), out=out_CV)
        else:
            torch.addmm(bias_V, hidden_CH, weight_VH.t(), out=out_CV)
    else:
        for tile in _tiles(len(weight_VH)):
            bias_v = None if bias_V is None else bias_V[tile]
            out_CV[:, tile] = _linear(hidden_CH, weight_VH[tile].float(), bias_v)


def hidden_gradient_(gradient_CV: Tensor, weight_VH: Tensor, out_CH: Tensor) -> None:
    """`out = gradient W`, float32."""
    if uses_half_matmul(out_CH.device, gradient_CV.dtype, weight_VH.dtype):
        torch.mm(gradient_CV, weight_VH, out_dtype=torch.float32, out=out_CH)
    elif out_CH.device.type != "cpu":
        torch.mm(gradient_CV.float(), weight_VH.float(), out=out_CH)
    else:
        out_CH.zero_()
        for tile in _tiles(len(weight_VH)):
            _add_product_(out_CH, gradient_CV[:, tile], weight_VH[tile].float())


def add_weight_gradient_(gradient_CV: Tensor, hidden_CH: Tensor, total_VH: Tensor) -> None:
    """`total += gradient^T hidden`, `total` in float32."""
    if uses_half_matmul(total_VH.device, gradient_CV.dtype, hidden_CH.dtype):
        torch.addmm(total_VH, gradient_CV.t(), hidden_CH, out_dtype=torch.float32, out=total_VH)
    elif total_VH.device.type != "cpu":
        total_VH.addmm_(gradient_CV.float().t(), hidden_CH.float())
    else:
        for tile in _tiles(len(total_VH)):
            _add_product_(total_VH[tile], gradient_CV[:, tile].t(), hidden_CH)


def _tiles(vocabulary: int) -> list[slice]:
    return [slice(start, min(start + _TILE, vocabulary)) for start in range(0, vocabulary, _TILE)]


def _linear(left_MK: Tensor, right_NK: Tensor, bias_N: Tensor | None) -> Tensor:
    """`left right^T + bias` in float32 on the CPU."""
    if _ONEDNN:
        return torch.ops.mkldnn._linear_pointwise(left_MK, right_NK, bias_N, "none", [], "")
    return torch.nn.functional.linear(left_MK, right_NK, bias_N)


def _add_product_(total_MN: Tensor, left_MK: Tensor, right_KN: Tensor) -> None:
    """`total += left right` in float32 on the CPU."""
    if _WIDE and _ONEDNN:
        total_MN += _linear(left_MK, right_KN.t(), None)
    else:
        total_MN.addmm_(left_MK, right_KN)


_WIDE = "AVX512" in torch.backends.cpu.get_cpu_capability()
# Not a documented call, but the one that torch.compile emits for linear layers.
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@dataclass(frozen=True)
class Head:
    """An output head: `weight_VH`, optional `bias_V`, soft cap and logit scale of the model's configuration."""

    weight_VH: Tensor
    bias_V: Tensor | None = None
    soft_cap: float | None = None
    scale: float = 1.0

    def at(self, temperature: float, hidden_dtype: torch.dtype) -> "ScaledHead":
        """This head's `logits / temperature` from hidden states of this type; shares the weight, whatever its type."""
        inner = self.scale / temperature if self.soft_cap is None else self.scale / self.soft_cap
        outer = None if self.soft_cap is None else self.soft_cap / temperature
        half = uses_half_matmul(self.weight_VH.device, hidden_dtype, self.weight_VH.dtype)
        before, after = (1.0, inner) if half else (inner, 1.0)
        bias_V = None if self.bias_V is None else self.bias_V.detach().float() * before
        return ScaledHead(self.weight_VH.detach(), bias_V, before, after, outer)

    @torch.no_grad()
    def logits(self, hidden_NH: Tensor, temperature: float = 1.0) -> Tensor:
        """`logits_NV / temperature`, float32, all at once: for a few tokens."""
        scaled = self.at(temperature, hidden_NH.dtype)
        logits_NV = torch.empty(len(hidden_NH), len(self.weight_VH), device=hidden_NH.device)
        scaled.project(hidden_NH, logits_NV)
        return scaled.finish_(logits_NV)


@dataclass(frozen=True)
class ScaledHead:
    """`logits / temperature` as `u = before * (h W^T + b)`, then `after * u`, or `outer * tanh(after * u)` with a cap.

    In float32 the whole factor goes `before`: on the few hidden channels. Where half-precision states are multiplied
    as they are, it goes `after`, for in that type it would round them.
    """

    weight_VH: Tensor
    bias_V: Tensor | None
    """Already multiplied by `before`, float32."""
    before: float
    after: float
    outer: float | None

    def project(self, hidden_CH: Tensor, out_CV: Tensor) -> Tensor:
        """Write `u` to `out_CV` and return `before * hidden`, of the type the matmuls take: one matmul."""
        half = uses_half_matmul(out_CV.device, hidden_CH.dtype, self.weight_VH.dtype)
        hidden_CH = hidden_CH.detach() if half else hidden_CH.detach().float() * self.before
        logits_(hidden_CH, self.weight_VH, self.bias_V, out_CV)
        return hidden_CH

    def finish_(self, logits_RV: Tensor) -> Tensor:
        """From `u` to `logits / temperature` in place, and return them."""
        if self.after != 1.0:
            logits_RV.mul_(self.after)
        return logits_RV if self.outer is None else logits_RV.tanh_().mul_(self.outer)

    def cap_slope(self, logits_RV: Tensor, out_RV: Tensor) -> Tensor | None:
        """The derivative of capped logits in `after * u`, from them: `outer (1 - tanh^2)`; None without a cap."""
        if self.outer is None:
            return None
        return torch.square(logits_RV, out=out_RV).mul_(-1.0 / self.outer).add_(self.outer)

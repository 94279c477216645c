"""The map from hidden states to logits, with what some models put around it: a bias, a scale, a soft cap.

`logits = scale * (h W^T + b)`, and with a cap `logits = cap * tanh(scale * (h W^T + b) / cap)`. `ScaledHead` is the
same at one softmax temperature, arranged so that scale and temperature cost no pass over the vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unisd_rl.objective.kernels.products import logits_, multiplies_half


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
        half = multiplies_half(self.weight_VH.device, hidden_dtype, self.weight_VH.dtype)
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
        """Write `u` to `out_CV` and return `before * hidden`, of the type the products take: one matrix product."""
        half = multiplies_half(out_CV.device, hidden_CH.dtype, self.weight_VH.dtype)
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

"""The map from hidden states to logits, with what some models put around it: a bias, a scale, a soft cap.

`logits = scale * (h W^T + b)`, and with a cap `logits = cap * tanh(scale * (h W^T + b) / cap)`. `ScaledHead` is the
same at one softmax temperature, arranged so that scale and temperature cost no pass over the vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Head:
    """An output head: `weight_VH`, optional `bias_V`, soft cap and logit scale of the model's configuration."""

    weight_VH: Tensor
    bias_V: Tensor | None = None
    soft_cap: float | None = None
    scale: float = 1.0

    def at(self, temperature: float) -> "ScaledHead":
        """This head's `logits / temperature` in float32; copies the weight only if it is not float32 already."""
        inner = self.scale / temperature if self.soft_cap is None else self.scale / self.soft_cap
        outer = None if self.soft_cap is None else self.soft_cap / temperature
        bias_V = None if self.bias_V is None else self.bias_V.detach().float() * inner
        return ScaledHead(self.weight_VH.detach().float(), bias_V, inner, outer)


@dataclass(frozen=True)
class ScaledHead:
    """`logits / temperature` as `u = inner * (h W^T + b)`, followed by `outer * tanh(u)` where there is a cap."""

    weight_VH: Tensor
    bias_V: Tensor | None
    """Already multiplied by `inner`."""
    inner: float
    outer: float | None

    def project(self, hidden_CH: Tensor, out_CV: Tensor) -> Tensor:
        """Write `u` to `out_CV` and return `inner * hidden` in float32: one matrix product."""
        hidden_CH = hidden_CH.detach().float() * self.inner
        if self.bias_V is None:
            torch.mm(hidden_CH, self.weight_VH.t(), out=out_CV)
        else:
            torch.addmm(self.bias_V, hidden_CH, self.weight_VH.t(), out=out_CV)
        return hidden_CH

    def cap_(self, logits_RV: Tensor) -> Tensor:
        """Apply the soft cap to `u` in place, and return it."""
        return logits_RV if self.outer is None else logits_RV.tanh_().mul_(self.outer)

    def cap_slope(self, logits_RV: Tensor, out_RV: Tensor) -> Tensor | None:
        """The derivative of capped logits in `u`, from the capped logits: `outer (1 - tanh^2)`; None without a cap."""
        if self.outer is None:
            return None
        return torch.square(logits_RV, out=out_RV).mul_(-1.0 / self.outer).add_(self.outer)

"""Decoding a group of prompts together with a transformers model: padding, cache, sampling.

Legend: R rows still being generated, V vocabulary. Prompts are padded on the left, so every row's
newest token is in the last column and one forward pass serves all rows.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from unisd_rl.types import Generation, PolicyVersion, Sampling, Tokens

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel


@dataclass(slots=True)
class Row:
    """One prompt on its way: what was sampled so far, by which version, and the random numbers to come."""

    prompt: Tokens
    sampling: Sampling
    uniforms: torch.Tensor
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[PolicyVersion] = field(default_factory=list)
    finish_reason: str | None = None

    @classmethod
    def begin(cls, prompt: Tokens, sampling: Sampling) -> "Row":
        """A row before its first token. All its random numbers follow from its seed, whoever shares its group."""
        generator = torch.Generator()
        if sampling.seed is None:
            generator.seed()
        else:
            generator.manual_seed(sampling.seed)
        return cls(prompt, sampling, torch.rand(sampling.max_tokens, generator=generator, dtype=torch.float64))

    def append(self, token: int, logprob: float, version: PolicyVersion, stop_tokens: frozenset[int]) -> None:
        """Take over one sampled token; sets `finish_reason` if it is the last."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        self.versions.append(version)
        if token in stop_tokens:
            self.finish_reason = "stop"
        elif len(self.tokens) == self.sampling.max_tokens:
            self.finish_reason = "length"

    def generation(self) -> Generation:
        """The finished row as the engine's answer."""
        assert self.finish_reason is not None, "the row is still being generated"
        return Generation(
            tokens=np.asarray(self.tokens, np.int32),
            logprobs=np.asarray(self.logprobs, np.float32),
            lineages=np.asarray([version.lineage for version in self.versions], np.int32),
            versions=np.asarray([version.number for version in self.versions], np.int32),
            finish_reason=self.finish_reason,
        )


class DecodingGroup:
    """Rows generated in step. `step` gives every row one token and returns those that are finished."""

    def __init__(self, model: "PreTrainedModel", rows: list[Row], stop_tokens: frozenset[int]) -> None:
        self._model, self.rows, self._stop_tokens = model, rows, stop_tokens
        width = max(len(row.prompt) for row in rows)
        self._pads = [width - len(row.prompt) for row in rows]
        self._cache: DynamicCache | None = None

    def forget_cache(self) -> None:
        """Keys and values were computed under weights that are gone: the next step computes them again."""
        self._cache = None

    @torch.inference_mode()
    def step(self, version: PolicyVersion) -> list[Row]:
        """Sample one token of `version` for each row; finished rows leave the group and are returned."""
        logits_RV = self._forward()
        tokens, logprobs = sample(logits_RV, [row.sampling for row in self.rows], self._uniforms())
        for row, token, logprob in zip(self.rows, tokens.tolist(), logprobs.tolist(), strict=True):
            row.append(token, logprob, version, self._stop_tokens)
        finished = [row for row in self.rows if row.finish_reason is not None]
        if finished:
            self._keep([index for index, row in enumerate(self.rows) if row.finish_reason is None])
        return finished

    def _forward(self) -> torch.Tensor:
        """Logits [R, V] of the next token, float32; only new tokens are computed while a cache is there."""
        mask = torch.stack([self._mask(row, pad) for row, pad in zip(self.rows, self._pads, strict=True)])
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        if self._cache is None:
            ids = torch.stack([self._ids(row, pad) for row, pad in zip(self.rows, self._pads, strict=True)])
        else:
            ids = torch.tensor([[row.tokens[-1]] for row in self.rows])
            positions = positions[:, -1:]
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = output.past_key_values
        return output.logits[:, -1].float()

    def _keep(self, survivors: list[int]) -> None:
        self.rows = [self.rows[index] for index in survivors]
        self._pads = [self._pads[index] for index in survivors]
        if self._cache is not None and survivors:
            self._cache.batch_select_indices(torch.tensor(survivors))

    def _uniforms(self) -> torch.Tensor:
        return torch.stack([row.uniforms[len(row.tokens)] for row in self.rows])

    @staticmethod
    def _mask(row: Row, pad: int) -> torch.Tensor:
        return torch.cat([torch.zeros(pad, dtype=torch.long), torch.ones(len(row.prompt) + len(row.tokens)).long()])

    @staticmethod
    def _ids(row: Row, pad: int) -> torch.Tensor:
        return torch.tensor([0] * pad + row.prompt.tolist() + row.tokens)


def sample(
    logits_RV: torch.Tensor, samplings: list[Sampling], uniforms_R: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token per row by inversion of the cumulative distribution, and its log-prob.

    The log-prob is of the distribution sampled from: softmax(logits / temperature), renormalised over
    the top_k likeliest tokens and then over their nucleus where top_p < 1; of softmax(logits) for greedy rows.
    """
    temperatures_R = torch.tensor([row.temperature or 1.0 for row in samplings])
    logprobs_RV = (logits_RV / temperatures_R[:, None]).log_softmax(-1)
    if any(row.top_k is not None for row in samplings):
        vocabulary = logits_RV.shape[-1]
        logprobs_RV = _likeliest(logprobs_RV, torch.tensor([row.top_k or vocabulary for row in samplings]))
    if any(row.top_p < 1.0 for row in samplings):
        logprobs_RV = _nucleus(logprobs_RV, torch.tensor([row.top_p for row in samplings]))
    cumulative_RV = logprobs_RV.double().exp().cumsum(-1)
    drawn_R = torch.searchsorted(cumulative_RV, (uniforms_R * cumulative_RV[:, -1])[:, None], right=True)[:, 0]
    greedy_R = torch.tensor([row.temperature == 0.0 for row in samplings])
    tokens_R = torch.where(greedy_R, logprobs_RV.argmax(-1), drawn_R.clamp(max=logits_RV.shape[-1] - 1))
    return tokens_R, logprobs_RV.gather(-1, tokens_R[:, None])[:, 0]


def _likeliest(logprobs_RV: torch.Tensor, top_k_R: torch.Tensor) -> torch.Tensor:
    """Keep the top_k likeliest tokens of each row (ties with the last of them too), and renormalise."""
    ordered_RV = logprobs_RV.sort(-1, descending=True).values
    last_R1 = ordered_RV.gather(-1, (top_k_R[:, None] - 1).clamp(max=ordered_RV.shape[-1] - 1))
    return logprobs_RV.masked_fill(logprobs_RV < last_R1, float("-inf")).log_softmax(-1)


def _nucleus(logprobs_RV: torch.Tensor, top_p_R: torch.Tensor) -> torch.Tensor:
    """Keep the likeliest tokens until their probability reaches top_p (at least one), and renormalise."""
    ordered_RV, order_RV = logprobs_RV.sort(-1, descending=True)
    before_RV = ordered_RV.exp().cumsum(-1) - ordered_RV.exp()
    kept_RV = ordered_RV.masked_fill(before_RV >= top_p_R[:, None], float("-inf"))
    return torch.empty_like(logprobs_RV).scatter_(-1, order_RV, kept_RV).log_softmax(-1)

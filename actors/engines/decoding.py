"""Decoding a group of prompts together with a transformers model: padding, cache, sampling.

Legend: R rows computed, L columns so far, V vocabulary. Prompts are padded on the left, so every row's
newest token is in the last column and one forward pass serves all rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from actors.engines.engine import NO_WEIGHTS, EngineRefused
from unisd_rl.types import Generation, PolicyVersion, Sampling, Tokens

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

    from actors.engines.engine import GroupShape

_GREEDY = Sampling(temperature=0.0, top_p=1.0, max_tokens=1)
_TRIED_PROMPTS, _TRIED_TOKENS = (2, 6), 3
_TOLERANCE = {torch.float32: 0.02}
_NO_DRAW = torch.zeros((), dtype=torch.float64)


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
    def start(cls, prompt: Tokens, sampling: Sampling) -> "Row":
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
    """Rows generated in step. `step` gives every row one token and returns those that are finished.

    Without a shape the group is as wide as its longest prompt, and finished rows leave it. With one, every group
    computes `shape.rows` rows of one width to its end, empty and finished ones too: row r of one forward pass is then
    the same function of its own tokens whatever the others are, and its bits follow from weights, prompt and row.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        rows: Mapping[int, Row],
        stop_tokens: frozenset[int],
        shape: "GroupShape | None" = None,
    ) -> None:
        """`rows` by the index each is computed at: 0 to len(rows) - 1, or below `shape.rows`."""
        self._model, self._stop_tokens, self._fixed = model, stop_tokens, shape is not None
        self._rows = [rows.get(index) for index in range(shape.rows if shape else len(rows))]
        # One column is always padding: transformers computes in another way where a whole group has none.
        width = shape.prompt_tokens + 1 if shape else max(len(row.prompt) for row in rows.values())
        self._ids_RL = torch.zeros(len(self._rows), width, dtype=torch.long)
        self._mask_RL = torch.zeros_like(self._ids_RL)
        self._mask_RL[:, -1] = 1  # an empty row reads one token
        for index, row in rows.items():
            self._ids_RL[index, width - len(row.prompt) :] = torch.from_numpy(row.prompt)
            self._mask_RL[index, width - len(row.prompt) :] = 1
        self._cache: DynamicCache | None = None

    @property
    def active(self) -> list[Row]:
        """Those still being generated."""
        return [row for row in self._rows if row is not None]

    def forget_cache(self) -> None:
        """Keys and values were computed under weights that are gone: the next step computes them again."""
        self._cache = None

    @torch.inference_mode()
    def step(self, version: PolicyVersion) -> list[Row]:
        """Sample one token of `version` for each row; finished rows are returned, once."""
        uniforms_R = torch.stack([row.uniforms[len(row.tokens)] if row else _NO_DRAW for row in self._rows])
        samplings = [row.sampling if row else _GREEDY for row in self._rows]
        tokens_R, logprobs_R = sample(self._forward(), samplings, uniforms_R)
        finished = []
        for index, (token, logprob) in enumerate(zip(tokens_R.tolist(), logprobs_R.tolist(), strict=True)):
            if (row := self._rows[index]) is None:
                continue
            row.append(token, logprob, version, self._stop_tokens)
            if row.finish_reason is not None:
                self._rows[index] = None
                finished.append(row)
        self._ids_RL = torch.cat([self._ids_RL, tokens_R[:, None]], -1)
        self._mask_RL = torch.cat([self._mask_RL, torch.ones_like(tokens_R)[:, None]], -1)
        if finished and not self._fixed:
            self._drop_finished()
        return finished

    def _forward(self) -> torch.Tensor:
        """Logits [R, V] of the next token, float32; only new tokens are computed while a cache is there."""
        positions_RL = (self._mask_RL.cumsum(-1) - 1).clamp(min=0)
        new = slice(None) if self._cache is None else slice(-1, None)
        output = self._model(
            input_ids=self._ids_RL[:, new],
            attention_mask=self._mask_RL,
            position_ids=positions_RL[:, new],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = output.past_key_values
        return output.logits[:, -1].float()

    def _drop_finished(self) -> None:
        kept = torch.tensor([index for index, row in enumerate(self._rows) if row is not None], dtype=torch.long)
        self._rows = [*self.active]
        self._ids_RL, self._mask_RL = self._ids_RL[kept], self._mask_RL[kept]
        if self._cache is not None and self._rows:
            self._cache.batch_select_indices(kept)


@torch.inference_mode()
def check_decoding(model: "PreTrainedModel") -> None:
    """Refuse a model that gives tokens other log-probs here than when it reads their text alone and at once.

    Some take positions from the padding before a prompt, or keep no keys and values that a group could share.

    Raises:
        EngineRefused: it does, or it cannot be called so.
    """
    kind, vocabulary = type(model).__name__, model.config.get_text_config().vocab_size
    sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=_TRIED_TOKENS, seed=0)
    prompts = [(np.arange(length, dtype=np.int32) + 1) % vocabulary for length in _TRIED_PROMPTS]
    rows = [Row.start(prompt, sampling) for prompt in prompts]
    group = DecodingGroup(model, dict(enumerate(rows)), frozenset())
    try:
        while group.active:
            group.step(NO_WEIGHTS)
        for row in rows:
            ids_L = torch.tensor([*row.prompt.tolist(), *row.tokens])
            logprobs_LV = model(input_ids=ids_L[None], use_cache=False).logits[0].float().log_softmax(-1)
            alone_T = logprobs_LV[len(row.prompt) - 1 : -1].gather(-1, ids_L[len(row.prompt) :, None])[:, 0]
            gap = float((alone_T - torch.tensor(row.logprobs)).abs().max())
            if not gap <= _TOLERANCE.get(model.dtype, 0.5):
                raise EngineRefused(
                    f"{kind} gives a token another log-prob in a padded group than alone, by {gap:.2g} nats, so the "
                    'transformers engine cannot serve it: rollout.engine.type = "vllm", or another model'
                )
    except (TypeError, AttributeError) as error:  # its forward pass takes other arguments, or returns no cache
        raise EngineRefused(f"the transformers engine cannot decode with {kind}: {error}") from error


def sample(
    logits_RV: torch.Tensor, samplings: list[Sampling], uniforms_R: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token per row by inversion of the cumulative distribution, and its log-prob.

    The log-prob is of the distribution sampled from: softmax(logits / temperature), renormalised over
    the top_k likeliest tokens and then over their nucleus where top_p < 1; of softmax(logits) for greedy rows. No row
    depends on how others are cut.
    """
    if any(row.allowed is not None for row in samplings):
        logits_RV = _only_allowed(logits_RV, samplings)
    temperatures_R = torch.tensor([row.temperature or 1.0 for row in samplings])
    logprobs_RV = (logits_RV / temperatures_R[:, None]).log_softmax(-1)
    top_k_R = torch.tensor([row.top_k or 0 for row in samplings])
    top_p_R = torch.tensor([row.top_p for row in samplings])
    if top_k_R.any():
        cut_RV = _likeliest(logprobs_RV, top_k_R.where(top_k_R > 0, logits_RV.shape[-1]))
        logprobs_RV = torch.where((top_k_R > 0)[:, None], cut_RV, logprobs_RV)
    if (top_p_R < 1.0).any():
        logprobs_RV = torch.where((top_p_R < 1.0)[:, None], _nucleus(logprobs_RV, top_p_R), logprobs_RV)
    cumulative_RV = logprobs_RV.double().exp().cumsum(-1)
    drawn_R = torch.searchsorted(cumulative_RV, (uniforms_R * cumulative_RV[:, -1])[:, None], right=True)[:, 0]
    greedy_R = torch.tensor([row.temperature == 0.0 for row in samplings])
    tokens_R = torch.where(greedy_R, logprobs_RV.argmax(-1), drawn_R.clamp(max=logits_RV.shape[-1] - 1))
    return tokens_R, logprobs_RV.gather(-1, tokens_R[:, None])[:, 0]


def _only_allowed(logits_RV: torch.Tensor, samplings: list[Sampling]) -> torch.Tensor:
    """Logits of minus infinity for the tokens that a row may not sample."""
    logits_RV = logits_RV.clone()
    for index, row in enumerate(samplings):
        if row.allowed is not None:
            kept = logits_RV[index, list(row.allowed)]
            logits_RV[index] = float("-inf")
            logits_RV[index, list(row.allowed)] = kept
    return logits_RV


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

"""The token terms of an objective with coefficients that a test chose, without a step that makes them."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from unisd_rl.config.objective import DivergenceContrast, LogprobContrast, ObjectiveSettings
from unisd_rl.objective.contrastive import DivergenceContrastTerm, LogprobContrastTerm
from unisd_rl.objective.divergence import NO_WEIGHTS, DivergenceTerm
from unisd_rl.objective.likelihood import LikelihoodTerm
from unisd_rl.objective.term import Measure, TokenTerm


@dataclass(frozen=True)
class Coefficients:
    """One number per token for every term there is."""

    divergence_N: Tensor
    contrastive_N: Tensor
    likelihood_N: Tensor
    primary_N: Tensor
    negative_N: Tensor
    clip_threshold: float | None = None
    unclipped_N: Tensor | None = None

    def tokens(self, order_N: Tensor) -> "Coefficients":
        vectors = {one.name for one in fields(self) if isinstance(getattr(self, one.name), Tensor)}
        return replace(self, **{name: getattr(self, name)[order_N] for name in vectors})


def random_coefficients(tokens: int, generator: torch.Generator, clip_threshold: float | None, device) -> Coefficients:
    uniform = torch.rand(5, tokens, generator=generator).to(device)
    return Coefficients(*uniform[:3], *(-3.0 * uniform[3:]), clip_threshold=clip_threshold)


def token_terms(objective: ObjectiveSettings, given: Coefficients) -> list[TokenTerm]:
    """Those terms that are on, with the given coefficients."""
    terms: list[TokenTerm] = []
    if objective.divergence is not None:
        measure = Measure(objective.divergence, "primary")
        clip = (given.clip_threshold, given.unclipped_N)
        terms.append(DivergenceTerm(measure, given.divergence_N, *clip, NO_WEIGHTS))
    contrast = objective.contrastive
    if isinstance(contrast, LogprobContrast):
        logprobs = (given.primary_N, given.negative_N)
        terms.append(LogprobContrastTerm(given.contrastive_N, contrast.margin, *logprobs))
    if isinstance(contrast, DivergenceContrast):
        measures = (Measure(contrast.divergence, view) for view in ("primary", "negative"))
        terms.append(DivergenceContrastTerm(given.contrastive_N, contrast.margin, *measures))
    if objective.likelihood is not None:
        terms.append(LikelihoodTerm(given.likelihood_N))
    return terms

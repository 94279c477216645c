"""What the views said about one rank's share of a step: the learner fills it, `unisd.step_terms` reads it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unisd_rl.objective.settings import LogprobContrast, ObjectiveSettings


@dataclass(frozen=True)
class TokenSignals:
    """This rank's whole share of one optimiser step, all micro-batches concatenated, without gradient."""

    sequence_N: Tensor
    """long: index of each token's sequence on this rank."""
    sequences: int
    """How many sequences this rank has; those without tokens count nowhere."""
    primary_N: Tensor | None
    """Log-prob of the realised token under the teacher's primary view; needed for contrast on log-probs."""
    auxiliary_KN: Tensor | None
    """The same under each auxiliary view; needed for agreement."""
    negative_N: Tensor | None
    """The same under the negative view; any value, also nan, in sequences without one. Needed like `primary_N`."""
    has_negative_S: Tensor | None
    """bool: which sequences have a negative view; None: all of them."""
    divergence_N: Tensor | None
    """From `token_divergence`; needed for a quantile clip."""
    order_S: Tensor | None = None
    """long: place of each sequence among this rank's prompts, 0 .. sequences - 1; None: the order of the indices. Only
    the released reductions read it, to say which sequences form a micro-batch."""


def check_signals(signals: TokenSignals, settings: ObjectiveSettings) -> None:
    """Raises ValueError where the settings need a signal that is absent, or one cannot be what it says."""
    if settings.needs_auxiliary_views:
        if signals.auxiliary_KN is None:
            raise ValueError("agreement needs the log-probs of the auxiliary views")
        if len(signals.auxiliary_KN) < 2:
            raise ValueError(f"agreement compares auxiliary views: {len(signals.auxiliary_KN)} is too few, at least 2")
    if isinstance(settings.contrastive, LogprobContrast):
        for name, logprob_N in (("primary", signals.primary_N), ("negative", signals.negative_N)):
            if logprob_N is None:
                raise ValueError(f"the contrastive term needs the log-probs of the {name} view")
    if settings.needs_divergence_pass and signals.divergence_N is None:
        raise ValueError("a quantile clip needs the divergences of the whole step before the first gradient")
    if signals.order_S is not None:
        places = torch.arange(signals.sequences, device=signals.order_S.device)
        if not torch.equal(signals.order_S.sort().values, places):
            raise ValueError(f"order_S must hold each of the places 0 .. {signals.sequences - 1} once")

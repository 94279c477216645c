"""One optimiser step before its first gradient: what the views said, and what all ranks agree on."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unisd_rl.config.objective import ObjectiveSettings
from unisd_rl.metrics import BatchCounts
from unisd_rl.objective.reduction import Gather, TokenShares, global_shares, step_counts
from unisd_rl.objective.reference_reductions import reference_shares


@dataclass(frozen=True)
class ScoringInputs:
    """What the views said about this rank's share of a step, all micro-batches concatenated, without gradient."""

    sequence_N: Tensor
    """long: index of each token's sequence on this rank."""
    sequences: int
    """How many sequences this rank has; those without tokens count nowhere."""
    primary_N: Tensor | None
    """Log-prob of the target token under the teacher's primary view; needed for contrast on log-probs."""
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
    the reference reductions read it, to say which sequences form a micro-batch."""


@dataclass(frozen=True)
class Step:
    """What a term is made from; counts and shares are the same on any layout of ranks and micro-batches."""

    inputs: ScoringInputs
    settings: ObjectiveSettings
    count_S: Tensor
    """Tokens of each of this rank's sequences, float64."""
    counts: BatchCounts
    shares: TokenShares
    batch_S: Tensor | None
    """long: the micro-batch of each sequence, under the reference reductions; None: ours."""
    gather: Gather


@torch.no_grad()
def step_of(inputs: ScoringInputs, settings: ObjectiveSettings, gather: Gather) -> Step:
    """Count tokens and sequences over all ranks. A collective.

    Raises ValueError where `order_S` is no order of the sequences.
    """
    count_S = torch.bincount(inputs.sequence_N, minlength=inputs.sequences).double()
    contrasted_S = torch.zeros_like(count_S, dtype=torch.bool)
    if settings.needs_negative_view:
        contrasted_S = count_S > 0 if inputs.has_negative_S is None else (count_S > 0) & inputs.has_negative_S
    batch_S = _micro_batches(inputs, settings)
    counts = step_counts(count_S, contrasted_S, gather)
    if batch_S is None:
        shares = global_shares(inputs.sequence_N, count_S, contrasted_S, counts)
    else:
        shares = reference_shares(inputs.sequence_N, batch_S, count_S, contrasted_S, gather)
    return Step(inputs, settings, count_S, counts, shares, batch_S, gather)


def _micro_batches(inputs: ScoringInputs, settings: ObjectiveSettings) -> Tensor | None:
    places_S = torch.arange(inputs.sequences, device=inputs.sequence_N.device)
    order_S = places_S if inputs.order_S is None else inputs.order_S
    if not torch.equal(order_S.sort().values, places_S):
        raise ValueError(f"order_S must hold each of the places 0 .. {inputs.sequences - 1} once")
    if settings.reference_reductions is None:
        return None
    return order_S // settings.reference_reductions.micro_batch_size

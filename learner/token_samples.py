"""What a step measured at each token of a few of its rollouts, for people to look at: nothing is trained by it.

The numbers are there anyway, but for the entropy, which is computed of the sampled tokens alone.
"""

from collections.abc import Iterable, Set

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.batch import RankBatch
from unisd_rl.objective.step import ScoringInputs
from unisd_rl.objective.unisd import MicroReport
from unisd_rl.types import TokenSample

MOST_TOKENS = 1024
"""Of a completion, the first so many tokens are kept."""


def sampled_tokens(batch: RankBatch, numbers: Set[int]) -> NDArray[np.bool_]:
    """`sampled_N`: which tokens of the batch are of the rollouts with these numbers, and kept."""
    sampled_N = np.zeros(batch.tokens, np.bool_)
    for row, rollout in enumerate(batch.rollouts):
        if rollout.number in numbers:
            sampled_N[_kept(batch, row)] = True
    return sampled_N


def token_samples(
    batch: RankBatch,
    numbers: Set[int],
    sampled_N: NDArray[np.bool_],
    inputs: ScoringInputs,
    passes: Iterable[tuple[MicroReport, Tensor]],
) -> list[TokenSample]:
    """The rollouts with these numbers that are on this rank and have a token.

    `sampled_N`: their `sampled_tokens`. `passes`: of each gradient pass, in order, its report and the entropies of its
    sampled tokens.
    """
    reports = list(passes)
    by_name: dict[str, list[Tensor]] = {"logprob": [report.student_logprob_N for report, _ in reports]}
    for report, _ in reports:
        for name, value_N in report.token_values.items():
            by_name.setdefault(name, []).append(value_N)
    views = {"primary": inputs.primary_N, "negative": inputs.negative_N}
    by_name |= {name: [value_N] for name, value_N in views.items() if value_N is not None}
    where_n = torch.from_numpy(np.flatnonzero(sampled_N)).to(batch.device)
    values = {name: torch.cat(parts)[where_n].float().cpu().numpy() for name, parts in by_name.items()}
    values["entropy"] = torch.cat([entropy_n for _, entropy_n in reports]).cpu().numpy()
    place_N = np.cumsum(sampled_N) - 1
    samples = []
    for row, rollout in enumerate(batch.rollouts):
        kept = _kept(batch, row)
        if rollout.number not in numbers or kept.start == kept.stop:
            continue
        span = slice(place_N[kept.start], place_N[kept.stop - 1] + 1)
        samples.append(
            TokenSample(
                number=rollout.number,
                source=rollout.source,
                finish_reason=rollout.finish_reason,
                tokens=rollout.completion_tokens[:MOST_TOKENS].copy(),
                length=len(rollout.completion_tokens),
                versions=None if rollout.versions is None else rollout.versions[:MOST_TOKENS].copy(),
                values={name: value_n[span].copy() for name, value_n in values.items()},
            )
        )
    return samples


def _kept(batch: RankBatch, row: int) -> slice:
    start, stop = int(batch.starts[row]), int(batch.starts[row + 1])
    return slice(start, min(stop, start + MOST_TOKENS))

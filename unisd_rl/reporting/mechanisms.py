"""Which mechanism acted on which tokens: on how many, over all steps, and where most in the sampled rollouts."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import nlargest
from statistics import fmean

from unisd_rl.reporting.answers import visible
from unisd_rl.reporting.record import Row, RunRecord

MOST_TOKENS = 3
_FEWEST_PLACES = 3  # of a token in the samples: the mean of one place is not the token's


@dataclass(frozen=True, slots=True)
class Mechanism:
    """`acted` says on how many tokens, and `share` does where it is one; `tokens` are those on which it acted most."""

    name: str
    acted: str
    share: float | None = None
    tokens: Sequence[str] = ()


def mechanisms(run: RunRecord) -> list[Mechanism]:
    """The divergence, and what of the objective acted beside it."""
    return list(_mechanisms(run))


def _mechanisms(run: RunRecord) -> Iterator[Mechanism]:
    rows = run.samples
    if (nats := run.mean("divergence")) is not None:
        yield Mechanism("divergence", f"{nats:.2g} nats a token", None, strongest_tokens(rows, "divergence"))
    if (share := run.mean("weight_below_half")) is not None and run.mean("weight_mean") is not None:
        lowest = strongest_tokens(rows, "weight", fullest=1.0)
        yield Mechanism("agreement", f"weighed {share:.1%} of the tokens below 0.5", share, lowest)
    if share := run.mean("clipped_share"):
        yield Mechanism("clip", f"took the gradient of {share:.1%}", share)
    if (share := run.mean("contrastive_active_share")) is not None:
        text = f"moved {share:.1%} of those with a wrong demonstration"
        yield Mechanism("contrast", text, share, strongest_tokens(rows, "contrast"))
    if loss := run.mean("matching_loss"):
        yield Mechanism("feature matching", f"made {loss:.2g} nats of the loss")


def strongest_tokens(rows: Sequence[Row], value: str, fullest: float = 0.0) -> list[str]:
    """The tokens whose numbers are on average farthest from `fullest`, of those that stand in several places."""
    distances: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        for token, number in zip(row["tokens"], row["values"].get(value, ()), strict=False):
            if number is not None:
                distances[token].append(abs(number - fullest))
    means = {token: fmean(found) for token, found in distances.items() if len(found) >= _FEWEST_PLACES}
    return [_readable(token) for token in nlargest(MOST_TOKENS, means, key=means.__getitem__) if means[token]]


def _readable(token: str) -> str:
    """With marks for what has no ink."""
    return visible(token).replace("\n", "\u23ce").replace(" ", "\u2423")[:40] or "\u00b7"

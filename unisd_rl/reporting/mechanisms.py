"""Which mechanism acted on which tokens: on how many, over all steps, and where most in the sampled rollouts."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unisd_rl.reporting.answers import visible
from unisd_rl.reporting.record import Row, RunRecord

MOST_TOKENS = 3


@dataclass(frozen=True, slots=True)
class Mechanism:
    """`acted` says on how many tokens; `tokens` are those on which it acted most, with their shares of all it did."""

    name: str
    acted: str
    tokens: Sequence[tuple[str, float]] = ()


def mechanisms(run: RunRecord) -> list[Mechanism]:
    """The divergence, and what of the objective acted beside it."""
    return list(_mechanisms(run))


def _mechanisms(run: RunRecord) -> Iterator[Mechanism]:
    rows = run.samples
    if (nats := run.mean("divergence")) is not None:
        yield Mechanism("divergence", f"{nats:.2g} nats a token", strongest_tokens(rows, "divergence"))
    if (share := run.mean("weight_below_half")) is not None and run.mean("weight_mean") is not None:
        lowest = strongest_tokens(rows, "weight", fullest=1.0)
        yield Mechanism("agreement", f"weighed {share:.1%} of the tokens below 0.5{_scaled(run)}", lowest)
    if share := run.mean("clipped_share"):
        quantile = run.settings.get("objective.clipping.quantile")
        set_so = f", as the quantile {quantile:g} of the settings says" if quantile else ""
        yield Mechanism("clip", f"no divergence gradient for {share:.1%} of the tokens{set_so}: where it is highest")
    if (share := run.mean("contrastive_active_share")) is not None:
        text = f"acted on {share:.1%} of the tokens whose answer has a wrong demonstration"
        yield Mechanism("contrast", text, strongest_tokens(rows, "contrast"))
    if run.mean("matching_loss"):
        yield Mechanism("feature matching", "on every token")


def _scaled(run: RunRecord) -> str:
    """What the settings make of agreement weights, whatever the views say."""
    quantile, gamma = (run.settings.get(f"objective.agreement.{name}") for name in ("scale_quantile", "gamma"))
    if not quantile or not gamma:
        return ""
    return f" (by the settings a token at the {quantile:.0%} quantile of disagreement weighs {1 / (1 + gamma):.2g})"


def strongest_tokens(rows: Sequence[Row], value: str, fullest: float = 0.0) -> list[tuple[str, float]]:
    """The tokens to which most of the distance from `fullest` belongs, and their shares of it, 0 to 1."""
    distances = Counter[str]()
    for row in rows:
        for token, number in zip(row["tokens"], row["values"].get(value, ()), strict=False):
            if number is not None:
                distances[token] += abs(number - fullest)
    total = distances.total()
    return [(_readable(token), found / total) for token, found in distances.most_common(MOST_TOKENS) if found]


def _readable(token: str) -> str:
    """With marks for what has no ink."""
    return visible(token).replace("\n", "\u23ce").replace(" ", "\u2423")[:40] or "\u00b7"

"""Settings that are on but do nothing: the mistake that no loss curve shows.

A threshold above the divergence's bound, a weight of zero, agreement whose weights are all one: the run looks as if a
mechanism were part of it. Each is named in one sentence before the run starts.
"""

from collections.abc import Iterator

from unisd_rl.objective.settings import (
    DivergenceContrast,
    ObjectiveSettings,
    SequenceAgreement,
    TokenAgreement,
    divergence_bound,
)

# Weights that all lie between this and 1 change a gradient by less than its noise.
_NEARLY_ONE = 0.99


def inert_settings(settings: ObjectiveSettings) -> tuple[str, ...]:
    """One sentence for every setting that is on but cannot change the gradient; empty when all of them act.

    Also named is token agreement whose smallest possible weight is 0.99: it hardly can.
    """
    return (
        *_clipping(settings),
        *_agreement(settings),
        *_auxiliary_temperature(settings),
        *_contrastive(settings),
        *_weights(settings),
    )


def _clipping(settings: ObjectiveSettings) -> Iterator[str]:
    threshold = settings.clip_threshold
    if threshold is None and settings.clip_quantile is None:
        return
    if settings.alpha is None:
        yield "clipping acts on the divergence, and there is no divergence term"
        return
    bound = divergence_bound(settings.alpha)
    if threshold is not None and threshold >= bound:
        yield (
            f"clip threshold {threshold:g} can never bind: "
            f"the divergence with alpha {settings.alpha:g} is at most {bound:.4f}"
        )
    if settings.clip_quantile == 1.0:
        yield "clip quantile 1 is the largest divergence: no token lies above it"


def _agreement(settings: ObjectiveSettings) -> Iterator[str]:
    agreement = settings.agreement
    if agreement is None:
        return
    if settings.alpha is None:
        yield "agreement weighs the divergence, and there is no divergence term"
    elif agreement.gamma == 0.0:
        yield "agreement gamma 0 gives every weight 1"
    elif isinstance(agreement, SequenceAgreement):
        if settings.released_micro_batch is not None:
            yield (
                "sequence agreement cancels under the released reductions: "
                "a completion's weight stands in numerator and denominator of its own mean"
            )
    elif agreement.floor == 1.0 or agreement.cap == 0.0:
        yield "agreement with floor 1 or cap 0 gives every weight 1"
    elif _smallest_weight(agreement) >= _NEARLY_ONE:
        yield (
            f"agreement with gamma {agreement.gamma:g}, cap {agreement.cap:g} and floor {agreement.floor:g} hardly "
            f"acts: every weight lies between {_smallest_weight(agreement):.3f} and 1"
        )


def _smallest_weight(agreement: TokenAgreement) -> float:
    return max(agreement.floor, 1.0 / (1.0 + agreement.gamma * agreement.cap))


def _auxiliary_temperature(settings: ObjectiveSettings) -> Iterator[str]:
    own = settings.auxiliary_temperature
    if own is not None and own != settings.temperature and not settings.needs_auxiliary_views:
        yield f"auxiliary temperature {own:g} is of views that only agreement on a divergence term reads"


def _contrastive(settings: ObjectiveSettings) -> Iterator[str]:
    contrastive = settings.contrastive
    if contrastive is None:
        return
    if contrastive.weight == 0.0:
        yield "contrastive weight 0 leaves the contrastive term without effect"
    elif isinstance(contrastive, DivergenceContrast) and contrastive.margin >= divergence_bound(contrastive.alpha):
        yield (
            f"contrastive margin {contrastive.margin:g} never closes the hinge, so its size changes nothing: the "
            f"divergence with alpha {contrastive.alpha:g} is at most {divergence_bound(contrastive.alpha):.4f}"
        )


def _weights(settings: ObjectiveSettings) -> Iterator[str]:
    if settings.matching_weight == 0.0:
        yield "matching weight 0 leaves feature matching without effect"
    if settings.likelihood_weight == 0.0:
        yield "likelihood weight 0 leaves the likelihood term without effect"

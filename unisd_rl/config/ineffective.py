"""Settings that are on but do nothing: the mistake that no loss curve shows.

A threshold above the divergence's bound, agreement whose weights are all one, a context that no term reads: the run
looks as if a mechanism were part of it. Each is named in one sentence before the run starts, as is what works but in
a slower way.
"""

from collections.abc import Iterator

from unisd_rl.config.schema import Config
from unisd_rl.types import ViewKind


def ineffective_settings(config: Config) -> tuple[str, ...]:
    """One sentence for every setting that is on but cannot change the gradient; empty when all of them act."""
    objective = config.objective
    mechanisms = (sentence for section in objective.mechanisms for sentence in section.ineffective(objective))
    return (*mechanisms, *_auxiliary_temperature(config), *_contexts(config))


def slower_settings(config: Config) -> tuple[str, ...]:
    """One sentence for every setting that keeps a GPU from the fast path."""
    divergence = config.objective.divergence
    if not config.learner.gpus_per_rank or divergence is None or divergence.has_triton_kernel:
        return ()
    return (f"objective.divergence: {divergence.title} has no Triton kernel; it runs in plain torch, which is slower",)


def _auxiliary_temperature(config: Config) -> Iterator[str]:
    own = config.objective.auxiliary_temperature
    if own is not None and own != config.temperature and ViewKind.AUXILIARY not in config.objective.needs.views:
        yield f"auxiliary temperature {own:g} is of views that only agreement on a divergence term reads"


def _contexts(config: Config) -> Iterator[str]:
    given, read = config.contexts, config.contexts_read
    if given.auxiliary and not read.auxiliary:
        yield "contexts.auxiliary gives views that no term reads (agreement with a divergence would): none is built"
    if given.negative and not read.negative:
        yield "contexts.negative gives views that no term reads (objective.contrastive would): none is built"

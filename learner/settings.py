"""From the configuration to what the objective and the scorer need. Imports nothing heavy."""

from learner.plan import ScoringPlan, scoring_plan
from unisd_rl.config import Config
from unisd_rl.config.objective import DivergenceContrast, TokenAgreement
from unisd_rl.objective import settings as objective


def objective_settings(config: Config) -> objective.ObjectiveSettings:
    """The objective's numbers; a section that is absent is a mechanism that is off."""
    sections = config.objective
    return objective.ObjectiveSettings(
        temperature=config.temperature,
        alpha=sections.divergence.alpha if sections.divergence else None,
        clip_threshold=sections.clipping.threshold if sections.clipping else None,
        clip_quantile=sections.clipping.quantile if sections.clipping else None,
        agreement=_agreement(config),
        contrastive=_contrastive(config),
        matching_weight=sections.matching.weight if sections.matching else None,
        chunk_tokens=config.learner.chunk_tokens,
        likelihood_weight=sections.likelihood.weight if sections.likelihood else None,
        auxiliary_temperature=config.auxiliary_temperature,
        released_micro_batch=sections.reference_reductions.micro_batch_size if sections.reference_reductions else None,
    )


def plan_of(config: Config) -> ScoringPlan:
    """The views that the teacher reads."""
    views = config.contexts.auxiliary.views if config.contexts.auxiliary else 0
    return scoring_plan(objective_settings(config), views)


def idle_settings(config: Config) -> tuple[str, ...]:
    """One sentence for every setting that is on but moves nothing because no term reads a teacher."""
    if config.objective.ema is None or plan_of(config).needs_teacher:
        return ()
    return ("objective.ema moves a teacher, and no term reads one: none is loaded",)


def _agreement(config: Config) -> objective.TokenAgreement | objective.SequenceAgreement | None:
    section = config.objective.agreement
    if section is None:
        return None
    if isinstance(section, TokenAgreement):
        return objective.TokenAgreement(
            gamma=section.gamma,
            statistic=section.statistic,
            scale_quantile=section.scale_quantile,
            scale=section.scale,
            cap=section.cap,
            floor=section.floor,
        )
    return objective.SequenceAgreement(gamma=section.gamma, statistic=section.statistic)


def _contrastive(config: Config) -> objective.LogprobContrast | objective.DivergenceContrast | None:
    section = config.objective.contrastive
    if isinstance(section, DivergenceContrast):
        return objective.DivergenceContrast(weight=section.weight, margin=section.margin, alpha=section.alpha)
    return objective.LogprobContrast(weight=section.weight, margin=section.margin) if section else None

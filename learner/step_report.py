"""From what one step measured to its `StepReport`, with numbers that are the same on every rank."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.sharding import largest, total
from learner.stopwatch import PARTS, READ, Stopwatch
from learner.teacher import Movement
from unisd_rl.metrics import StepReport
from unisd_rl.objective.step import Diagnostics, ObjectiveReport


@dataclass(frozen=True, slots=True)
class StepFindings:
    """A step before the weights change. All but `watch` is the same on every rank."""

    version: int
    diagnostics: Diagnostics
    objective: ObjectiveReport
    staleness: Tensor
    behaviour_gap: float
    watch: Stopwatch


def step_report(
    findings: StepFindings, movement: Movement, grad_norm: float, learning_rate: float, device: torch.device
) -> StepReport:
    """Put the numbers together; times are those of the slowest rank. A collective."""
    weights, objective, staleness = findings.diagnostics, findings.objective, findings.staleness
    seconds = dict(zip(PARTS, largest([findings.watch.seconds[part] for part in PARTS], device), strict=True))
    tokens = total([findings.watch.tokens[part] for part in READ], device)
    read = {part: int(count) for part, count in zip(READ, tokens, strict=True)}
    (computed,), (forwards,) = total([findings.watch.computed], device), largest([findings.watch.forwards], device)
    return StepReport(
        step=findings.version,
        loss=objective.loss,
        divergence=objective.divergence,
        divergence_p50=objective.divergence_p50,
        divergence_p95=objective.divergence_p95,
        clipped_share=objective.clipped_share,
        kappa=weights.kappa,
        weight_p05=weights.weight_p05,
        weight_median=weights.weight_median,
        weight_below_half=weights.weight_below_half,
        effective_sample_size=weights.effective_sample_size,
        contrastive_loss=objective.contrastive,
        contrastive_share=objective.contrast_active_share,
        feature_loss=objective.feature,
        likelihood_loss=objective.likelihood,
        teacher_moved=movement.moved,
        teacher_gap=movement.gap,
        grad_norm=grad_norm,
        learning_rate=learning_rate,
        tokens=weights.tokens,
        sequences=weights.sequences,
        contrasted_sequences=weights.contrasted_sequences,
        staleness_max=float(staleness.max()) if staleness.numel() else math.nan,
        staleness_mean=float(staleness.mean()) if staleness.numel() else math.nan,
        behaviour_gap_max=findings.behaviour_gap,
        primary_s=seconds["primary"],
        auxiliary_s=seconds["auxiliary"],
        negative_s=seconds["negative"],
        divergence_s=seconds["divergence"],
        gradient_s=seconds["gradient"],
        update_s=seconds["update"],
        primary_tokens=read["primary"],
        auxiliary_tokens=read["auxiliary"],
        negative_tokens=read["negative"],
        divergence_tokens=read["divergence"],
        gradient_tokens=read["gradient"],
        forwards=int(forwards),
        padding_share=1.0 - sum(read.values()) / computed,
    )

"""The guide's term in a tree that has it; `tests/unit/objective/test_add_a_term.py` runs it as a command.

It prints one line for each thing that is not as it should be.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import torch

from learner.plan import ViewSpec, scoring_plan
from tests.fakes.objective_expected import dense_gradient, dense_loss
from tests.fakes.objective_oracle import PLAIN, changed, dense_logprobs, random_problem
from tests.fakes.objective_steps import inputs_of, relative_difference
from unisd_rl.config.load import load_recipe
from unisd_rl.config.schema import ineffective_settings
from unisd_rl.objective.kernels.chunk_logits import HiddenStates
from unisd_rl.objective.kernels.head import Head
from unisd_rl.objective.unisd import loss_metrics, micro_batch_loss, step_terms
from unisd_rl.types import ViewKind

WEIGHT, SLACK = 0.3, 0.2


def wrong() -> Iterator[str]:
    yield from wrong_configuration()
    yield from wrong_mathematics()


def wrong_configuration() -> Iterator[str]:
    config = load_recipe("sft", {"objective": {"margin": {"weight": WEIGHT, "slack": SLACK}}})
    plan = scoring_plan(config)
    if plan.specs != (ViewSpec(ViewKind.PRIMARY, 0, False, config.temperature),):
        yield f"the plan is {plan}"
    if ineffective_settings(config) != ():
        yield f"named as without effect: {ineffective_settings(config)}"
    far = load_recipe("sft", {"objective": {"margin": {"slack": 30.0}}})
    if not any("objective.margin.slack = 30" in said for said in ineffective_settings(far)):
        yield "a slack of 30 is not named"


def wrong_mathematics() -> Iterator[str]:
    """Beside the divergence, in two micro-batches of chunks of three tokens."""
    problem = random_problem(3)
    section = load_recipe("sft", {"objective": {"margin": {"weight": WEIGHT, "slack": SLACK}}}).objective.margin
    objective = changed(PLAIN, margin=section)
    teacher_head = Head(problem.teacher_weight_VH)
    primary_NV = dense_logprobs(problem.teacher_NH, teacher_head, objective.temperature)
    primary_N = primary_NV.gather(1, problem.targets_N[:, None])[:, 0]
    share_N = 1.0 / torch.bincount(problem.sequence_N)[problem.sequence_N] / len(problem.sequence_N.unique())

    def dense(student_NH, weight_VH):
        student_NV = dense_logprobs(student_NH, Head(weight_VH), objective.temperature)
        s_N = student_NV.gather(1, problem.targets_N[:, None])[:, 0]
        margin = (WEIGHT * share_N * (primary_N - s_N - SLACK).clamp(min=0.0)).sum()
        below.append(int((primary_N - s_N > SLACK).sum()))
        return dense_loss(problem, PLAIN, student_NH, weight_VH) + margin

    below: list[int] = []
    inputs = replace(inputs_of(problem, objective, None, None), primary_N=primary_N.float())
    terms, reports, cuts = step_terms(inputs, objective, lambda values: values), [], (0, 4, 14)
    student_NH, weight_VH = problem.student_NH.float().requires_grad_(), problem.weight_VH.float().requires_grad_()
    for start, stop in pairwise(cuts):
        part = slice(start, stop)
        states = HiddenStates(student_NH[part], problem.teacher_NH[part].float())
        heads = Head(weight_VH), Head(problem.teacher_weight_VH.float())
        loss, report = micro_batch_loss(states, *heads, problem.targets_N[part], terms.slice(start, stop), objective)
        loss.backward()
        reports.append(report)
    metrics = loss_metrics(terms, reports, lambda values: values, torch.device("cpu")).flat()
    for ours, right in zip((student_NH.grad, weight_VH.grad), dense_gradient(problem, dense), strict=True):
        if relative_difference(ours.double(), right) > 1e-5:
            yield f"the gradient is off by {relative_difference(ours.double(), right):.1e}"
    if not 0 < below[0] < 14:
        yield f"{below[0]} of 14 tokens lie below the margin: the test shows nothing"
    if metrics["margin_below"] != below[0]:
        yield f"margin_below = {metrics['margin_below']}, expected {below[0]}"
    whole = float(dense(problem.student_NH, problem.weight_VH))
    if abs(metrics["loss"] - whole) > 1e-5 * whole or metrics["margin_loss"] <= 0.0:
        yield f"loss = {metrics['loss']} with margin_loss = {metrics['margin_loss']}, expected {whole}"


def main() -> int:
    print("\n".join(wrong()) or "all as it should be")
    return 0

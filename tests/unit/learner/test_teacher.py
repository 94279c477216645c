"""The teacher moves by exactly (1 - beta) of its gap to the student, whole or as an adapter."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from learner.lora import STUDENT, TEACHER, add_adapters
from learner.model import CausalLM
from learner.teacher import NO_UPDATE, AdapterTeacher, FullTeacher
from tests.fakes.learner_rig import learner_config
from unisd_rl.transport.weights.adapter import factors

BETA = 0.9
LORA = {"rank": 2, "alpha": 4.0, "targets": ["q_proj", "down_proj"]}


@dataclass
class TrainedModel:
    """What a teacher asks of a student: the model, and which of its parameters are trained."""

    lm: CausalLM
    parameters: dict[str, nn.Parameter]


def causal_lm():
    torch.manual_seed(3)
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    return CausalLM(Qwen2ForCausalLM(Qwen2Config(**sizes, num_attention_heads=2, num_key_value_heads=1)))


def pair(lora, every=1):
    """A student that took a step away from its teacher, and the teacher."""
    ema = {"divergence": {"alpha": 0.5}, "ema": {"beta": BETA, "every": every}}
    config = learner_config(objective=ema, model={"lora": LORA} if lora else {})
    lm = causal_lm()
    if lora:
        add_adapters(lm.model, config.model.lora, seed=0)
        student = TrainedModel(lm, factors(lm.model, STUDENT))
        teacher = AdapterTeacher(student, config)
    else:
        student = TrainedModel(lm, dict(lm.model.named_parameters()))
        teacher = FullTeacher(causal_lm(), config)
    assert all(torch.equal(average, student.parameters[name]) for name, average in teacher.average())
    with torch.no_grad():
        for parameter in student.parameters.values():
            parameter += 0.1 * torch.randn_like(parameter)
    return student, teacher


def average_of(teacher):
    return {name: average.clone() for name, average in teacher.average()}


def norm(tensors):
    return math.sqrt(sum(float(tensor.detach().double().square().sum()) for tensor in tensors))


@pytest.mark.parametrize("lora", [False, True])
def test_an_update_moves_every_weight_by_its_share_of_the_gap_and_says_how_far(lora):
    student, teacher = pair(lora)
    before = average_of(teacher)
    metrics = teacher.update_ema(student, step=1)
    after = average_of(teacher)
    assert after.keys() == student.parameters.keys()
    for name, weight in student.parameters.items():
        expected = before[name].double() + (1 - BETA) * (weight.detach().double() - before[name].double())
        assert float((after[name].double() - expected).abs().max()) <= 1e-7 * max(1.0, float(expected.abs().max()))
    moved, distance = (
        [after[name] - before[name] for name in after],
        [w - after[n] for n, w in student.parameters.items()],
    )
    assert metrics.teacher_update_norm == pytest.approx(norm(moved) / norm(after.values()), rel=1e-6)
    assert metrics.teacher_student_distance == pytest.approx(norm(distance) / norm(after.values()), rel=1e-6)
    assert metrics.teacher_update_norm == pytest.approx(metrics.teacher_student_distance / 9, rel=1e-4)


@pytest.mark.parametrize("lora", [False, True])
def test_the_weights_that_the_teacher_reads_with_are_its_average(lora):
    student, teacher = pair(lora)
    base = {name: value.clone() for name, value in student.lm.model.named_parameters() if ".lora_" not in name}
    teacher.update_ema(student, step=1)
    average = average_of(teacher)
    read = factors(student.lm.model, TEACHER) if lora else teacher._parameters
    assert all(torch.equal(read[name], average[name]) for name in average)
    assert all(torch.equal(value, student.lm.model.get_parameter(name)) for name, value in base.items())


@pytest.mark.parametrize("lora", [False, True])
def test_a_teacher_whose_turn_it_is_not_stays(lora):
    student, teacher = pair(lora, every=3)
    before = average_of(teacher)
    for step in (1, 2):
        assert teacher.update_ema(student, step) is NO_UPDATE
    assert all(torch.equal(average, before[name]) for name, average in teacher.average())
    assert teacher.update_ema(student, 3).teacher_update_norm > 0

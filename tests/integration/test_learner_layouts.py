"""Real DeepSpeed: one step is the same step on every layout, and is what the formulas say.

Two jobs of processes, one rank and two ranks; each builds its learners one after the other.
"""

import math
from dataclasses import replace

import pytest
import torch

from tests.fakes.learner_findings import (
    ONE_SIDED,
    ROLLOUTS,
    UNEVEN,
    WHOLE,
    Found,
    assert_the_teacher_moved_by_its_share_of_the_gap,
    relative,
)
from tests.fakes.learner_rig import ALL_FIVE, Case, learner_config, make_model

# Tokens of a gradient pass. The students' readings of all rollouts are 152 tokens, those of the busier uneven rank 113.
ALL_AT_ONCE = 10_000
FOUR_PASSES = 40
ONE_BY_ONE = 1
DECAY = 5.0
SOME_CUT = tuple(
    replace(rollout, finish_reason="length" if rollout.number in (1, 4, 10) else "stop") for rollout in ROLLOUTS
)
ALL_CUT = tuple(replace(rollout, finish_reason="length") for rollout in ROLLOUTS)


def case(name, path, shards, stage=0, micro=FOUR_PASSES, steps=2, save=None, without="", **sections):
    learner = {"zero_stage": stage, "micro_batch_tokens": micro, "ranks": len(shards), **sections.pop("learner", {})}
    return Case(name, learner_config(without, learner=learner, **sections), path, shards, steps, save)


def grid(path, shards, **sections):
    """Every ZeRO stage, in four micro-batches and in one."""
    four = [case(f"stage {stage}", path, shards, stage, **sections) for stage in range(4)]
    whole = {"micro": ALL_AT_ONCE, "steps": 1, **sections}
    return four + [case(f"whole {stage}", path, shards, stage, **whole) for stage in range(4)]


def padded(path, shards, stages):
    rows = {"steps": 1, "learner": {"layout": "padded"}}
    return [case(f"padded {stage}", path, shards, stage, **rows) for stage in stages]


def decayed(path, shards):
    """A weight decay that shows in two steps, on every arrangement of the optimiser's groups."""
    return [case(f"decayed {stage}", path, shards, stage, learner={"weight_decay": DECAY}) for stage in (0, 2, 3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("layouts")


@pytest.fixture(scope="module")
def tied(folder):
    return make_model(folder / "tied", tied=True)


@pytest.fixture(scope="module")
def untied(folder):
    return make_model(folder / "untied", tied=False)


@pytest.fixture(scope="module")
def one_rank(folder, tied, untied):
    stages = grid(tied, WHOLE)
    rows = [case("one by one", tied, WHOLE, micro=ONE_BY_ONE, steps=1), *padded(tied, WHOLE, (0, 3))]
    saved = [case("saved 3", tied, WHOLE, 3, steps=1, save=folder / "one-3")]
    heads = [case(f"untied {stage}", untied, WHOLE, stage, save=folder / f"untied-{stage}") for stage in (0, 3)]
    less = [case(f"without {name}", tied, WHOLE, without=name) for name in ALL_FIVE if name != "divergence"]
    low = [case(f"bfloat16 {stage}", tied, WHOLE, stage, model={"dtype": "bfloat16"}) for stage in (0, 2, 3)]
    thrifty = [
        case(f"recomputed {n}", tied, WHOLE, n, steps=1, learner={"gradient_checkpointing": True}) for n in (0, 3)
    ]
    warm = [case("temperatures", tied, WHOLE, steps=1, objective=ALL_FIVE | {"temperature": 1.0})]
    alone = [case("likelihood", tied, WHOLE, 3, steps=1, objective={"likelihood": {}, "ema": {}})]
    masks = {"learner": {"mask_truncated_completions": True}}
    cut = [case("cut", tied, (SOME_CUT,), steps=1, **masks), case("none masked", tied, (SOME_CUT,), steps=1)]
    skipped = case("all cut", tied, (ALL_CUT,), steps=1, save=folder / "all-cut", **masks)
    after = replace(skipped, name="after", shards=WHOLE, save=None, resume=folder / "all-cut", first=1)
    cut += [skipped, after, replace(after, name="without the skipped one", resume=None)]
    decays = decayed(tied, WHOLE)
    away = [case(f"offloaded {n}", tied, WHOLE, n, learner={"offload_optimizer": True}) for n in (0, 2, 3)]
    cases = [*stages, *rows, *saved, *heads, *less, *low, *thrifty, *warm, *alone, *cut, *decays, *away]
    return Found(folder / "one", cases, ranks=1)


@pytest.fixture(scope="module")
def two_ranks(folder, tied, untied):
    uneven = grid(tied, UNEVEN)
    rows = padded(tied, UNEVEN, (0, 3))
    sided = [case(f"one-sided {stage}", tied, ONE_SIDED, stage, steps=1) for stage in (0, 2, 3)]
    heads = [case("untied 3", untied, UNEVEN, 3, save=folder / "two-untied-3")]
    low = [case(f"bfloat16 {stage}", tied, UNEVEN, stage, model={"dtype": "bfloat16"}) for stage in (1, 3)]
    masks = {"mask_truncated_completions": True}
    cut = [case("cut 3", tied, (SOME_CUT[:9], SOME_CUT[9:]), 3, steps=1, learner=masks)]
    away = [case(f"offloaded {n}", tied, UNEVEN, n, learner={"offload_optimizer": True}) for n in (0, 2, 3)]
    cases = [*uneven, *rows, *sided, *heads, *low, *cut, *decayed(tied, UNEVEN), *away]
    return Found(folder / "two", cases, ranks=2)


GRID = [f"{kind} {stage}" for kind in ("stage", "whole") for stage in range(4)]


@pytest.mark.parametrize(
    "name", [*GRID, "padded 0", "padded 3", "one by one", "saved 3", "recomputed 0", "recomputed 3"]
)
def test_stages_micro_batches_and_padding_of_one_rank_give_the_same_gradient(one_rank, name):
    assert relative(one_rank[name]["gradient 0"], one_rank["whole 0"]["gradient 0"]) < 1e-5


@pytest.mark.parametrize("job", ["one_rank", "two_ranks"])
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_with_the_optimiser_in_cpu_memory_gradient_and_step_are_the_same(one_rank, request, job, stage):
    found, expected = request.getfixturevalue(job)[f"offloaded {stage}"], one_rank["stage 0"]
    assert relative(found["gradient 0"], expected["gradient 0"]) < 1e-5
    moved, due = (
        {name: masters - run["masters 0"][name] for name, masters in run["masters"].items()}
        for run in (found, expected)
    )
    assert relative(moved, due) < 1e-3
    assert relative(found["teacher"], expected["teacher"]) < 1e-5


@pytest.mark.parametrize("name", [*GRID, "padded 0", "padded 3", *(f"one-sided {n}" for n in (0, 2, 3))])
def test_two_ranks_of_unequal_shares_give_the_gradient_of_one(one_rank, two_ranks, name):
    assert relative(two_ranks[name]["gradient 0"], one_rank["whole 0"]["gradient 0"]) < 1e-5


@pytest.mark.parametrize("stage", range(4))
def test_the_second_step_has_the_same_gradient_too(one_rank, two_ranks, stage):
    for found in (one_rank, two_ranks):
        assert relative(found[f"stage {stage}"]["gradient 1"], one_rank["stage 0"]["gradient 1"]) < 1e-5


def test_passes_are_as_many_as_said_and_packed_ones_have_no_padding(one_rank, two_ranks):
    # Budgets: views 4 x 40, students without gradient the same. 1198 tokens of views take 8 passes of 160.
    forwards = {"whole 0": 1 + 1, "stage 0": 8 + 1 + 4, "stage 3": 8 + 1 + 4, "one by one": 52 + 11 + 11}
    for name, expected in forwards.items():
        report = one_rank[name]["reports"][0]
        assert report["padding_share"] == 0.0
        assert report["forward_passes"] == expected, name
    assert one_rank["padded 0"]["reports"][0]["padding_share"] > 0.02
    assert two_ranks["stage 0"]["reports"][0]["padding_share"] < 0.02  # dummy tokens where one rank has fewer passes


def test_tokens_are_counted_by_what_they_were_read_for(one_rank):
    report = one_rank["stage 0"]["reports"][0]
    counted = {"primary": 0, "auxiliary": 0, "negative": 0}
    for rollout in (rollout for rollout in ROLLOUTS if len(rollout.completion_tokens)):
        for view in rollout.views:
            counted[view.kind.value] += len(view.tokens) + len(rollout.completion_tokens) - 1
    assert {view: report[f"{view}_tokens"] for view in counted} == counted
    spoken = [len(one.prompt_tokens) + len(one.completion_tokens) - 1 for one in ROLLOUTS if len(one.completion_tokens)]
    assert report["divergence_tokens"] == report["gradient_tokens"] == sum(spoken)
    for part in (*counted, "divergence", "gradient", "update"):
        assert report[f"{part}_s"] > 0, part


def test_without_a_term_that_reads_one_there_is_no_teacher(one_rank):
    found = one_rank["likelihood"]
    assert found["teacher"] == {}
    (report,) = found["reports"]
    assert report["loss"] == report["likelihood_loss"] > 0
    assert report["grad_norm"] > 0
    for view in ("primary", "auxiliary", "negative"):
        assert report[f"{view}_tokens"] == report[f"{view}_s"] == 0
    assert report["teacher_update_norm"] == 0.0
    assert math.isnan(report["teacher_student_distance"])


def test_an_untied_head_has_the_same_gradient_on_sharded_ranks(one_rank, two_ranks):
    expected = one_rank["untied 0"]["gradient 0"]
    assert float(expected["lm_head.weight"].norm()) > 0
    assert relative(one_rank["untied 3"]["gradient 0"], expected) < 1e-5
    assert relative(two_ranks["untied 3"]["gradient 0"], expected) < 1e-5


@pytest.mark.parametrize("name", ["stage 1", "stage 2", "stage 3"])
def test_reports_are_the_same_on_every_layout(one_rank, two_ranks, name):
    for found, expected in zip(two_ranks[name]["reports"], one_rank["stage 0"]["reports"], strict=True):
        for field, value in expected.items():
            if not field.endswith("_s") and field not in ("forward_passes", "padding_share"):
                assert found[field] == pytest.approx(value, rel=1e-4, abs=1e-6, nan_ok=True), field


@pytest.mark.parametrize(
    "name, decay",
    [*((f"stage {stage}", 0.0) for stage in range(4)), *((f"decayed {stage}", DECAY) for stage in (0, 2, 3))],
)
def test_two_steps_are_adamw_on_clipped_gradients_at_the_scheduled_rate(one_rank, two_ranks, name, decay):
    """Matrices decay, norms and biases do not."""
    for found in (one_rank[name], two_ranks[name]):
        weights = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in found["masters 0"].items()}
        kept = {name for name in weights if "norm" in name or name.endswith("bias")}
        assert kept
        decays = [{"params": [weights[name]], "weight_decay": 0.0 if name in kept else decay} for name in weights]
        optimiser = torch.optim.AdamW(decays, betas=(0.9, 0.999))
        for step, rate in enumerate((1e-2 * 1 / 4, 1e-2 * 2 / 4)):  # a warm-up over 4 of 40 steps
            gradient = found[f"gradient {step}"]
            norm = math.sqrt(sum(float(tensor.double().square().sum()) for tensor in gradient.values()))
            assert norm > 0.3
            assert found["reports"][step]["grad_norm"] == pytest.approx(norm, rel=1e-5)
            assert found["reports"][step]["learning_rate"] == pytest.approx(rate)
            for name, weight in weights.items():
                weight.grad = gradient[name] * (0.3 / norm)
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
        moved = {name: found["masters"][name] - before for name, before in found["masters 0"].items()}
        expected = {name: weight.detach() - found["masters 0"][name] for name, weight in weights.items()}
        assert relative(moved, expected) < 1e-4


@pytest.mark.parametrize("name", [f"stage {stage}" for stage in range(4)])
def test_the_teacher_moves_by_exactly_its_share_of_the_gap(two_ranks, name):
    found = two_ranks[name]
    assert_the_teacher_moved_by_its_share_of_the_gap(found)
    moved = relative(found["teacher"], found["teacher 0"])
    assert moved > 1e-4


@pytest.mark.parametrize("job,stage", [("one", 0), ("one", 2), ("one", 3), ("two", 1), ("two", 3)])
def test_a_bfloat16_student_has_a_float32_teacher_that_moves_by_its_share(one_rank, two_ranks, job, stage):
    found = {"one": one_rank, "two": two_ranks}[job][f"bfloat16 {stage}"]
    assert_the_teacher_moved_by_its_share_of_the_gap(found)
    assert found["weights"]["model.norm.weight"].dtype == torch.bfloat16
    assert relative(found["gradient 0"], one_rank["stage 0"]["gradient 0"]) < 0.1


@pytest.mark.parametrize("name", [name for name in ALL_FIVE if name not in ("divergence", "ema")])
def test_leaving_out_a_mechanism_changes_the_first_gradient(one_rank, name):
    assert relative(one_rank[f"without {name}"]["gradient 0"], one_rank["stage 0"]["gradient 0"]) > 1e-3


def test_leaving_out_the_moving_teacher_changes_the_second_gradient(one_rank):
    still, moving = one_rank["without ema"], one_rank["stage 0"]
    assert relative(still["gradient 0"], moving["gradient 0"]) == 0
    assert relative(still["gradient 1"], moving["gradient 1"]) > 1e-3
    assert relative(still["teacher"], still["teacher 0"]) == 0
    assert [report["teacher_update_norm"] for report in still["reports"]] == [0.0, 0.0]


def test_the_gradient_is_what_the_formulas_say(one_rank, tied):
    loss, gradient = literal_step(tied, learner_config())
    assert one_rank["stage 0"]["reports"][0]["loss"] == pytest.approx(loss, rel=1e-5)
    assert relative(one_rank["stage 0"]["gradient 0"], gradient) < 1e-5


def test_completions_that_were_cut_are_not_trained_on_and_count_nowhere(one_rank, two_ranks, tied):
    kept = [rollout for rollout in SOME_CUT if not rollout.truncated]
    loss, gradient = literal_step(tied, learner_config(), kept)
    for found in (one_rank["cut"], two_ranks["cut 3"]):
        (report,) = found["reports"]
        assert report["loss"] == pytest.approx(loss, rel=1e-5)
        assert relative(found["gradient 0"], gradient) < 1e-5
        assert report["tokens"] == sum(len(rollout.completion_tokens) for rollout in kept)
        assert report["truncated_share"] == 3 / 12
    (report,) = one_rank["none masked"]["reports"]
    assert report["truncated_share"] == 3 / 12
    assert relative(one_rank["none masked"]["gradient 0"], one_rank["stage 0"]["gradient 0"]) == 0.0


def test_a_step_of_which_every_completion_was_cut_changes_nothing_and_training_goes_on_as_if_it_had_not_been(one_rank):
    skipped, after, without = (one_rank[name] for name in ("all cut", "after", "without the skipped one"))
    (report,) = skipped["reports"]
    assert (report["loss"], report["grad_norm"], report["tokens"], report["truncated_share"]) == (0.0, 0.0, 0, 1.0)
    assert relative(skipped["masters"], skipped["masters 0"]) == relative(skipped["teacher"], skipped["teacher 0"]) == 0
    assert relative(after["masters"], without["masters"]) == relative(after["teacher"], without["teacher"]) == 0
    assert relative(after["masters"], skipped["masters"]) > 1e-4


def test_log_probs_are_at_the_sampling_temperature_whatever_the_objectives_is(one_rank, tied):
    from transformers import AutoModelForCausalLM

    found = one_rank["temperatures"]
    model = AutoModelForCausalLM.from_pretrained(tied)
    model.load_state_dict(found["weights"], strict=False)
    with torch.no_grad():
        expected, _ = read(model, ROLLOUTS[0].prompt_tokens, ROLLOUTS[0].completion_tokens, 0.7)
    assert torch.allclose(found["logprobs"], realised(expected, ROLLOUTS[0]), atol=1e-5)


@pytest.mark.parametrize("name,key", [("one-3", "saved 3"), ("untied-0", "untied 0"), ("untied-3", "untied 3")])
def test_a_saved_checkpoint_is_the_student(one_rank, folder, name, key):
    assert_checkpoint_is(folder / name, one_rank[key])


def test_a_checkpoint_saved_by_sharded_ranks_is_the_student(two_ranks, folder):
    assert_checkpoint_is(folder / "two-untied-3", two_ranks["untied 3"])


def assert_checkpoint_is(path, found):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(path)
    weights = dict(model.named_parameters())
    assert weights.keys() == found["weights"].keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in found["weights"].items())
    assert relative(weights, found["masters 0"]) > 1e-3
    first = ROLLOUTS[0]
    with torch.no_grad():
        logprob, _ = read(model, first.prompt_tokens, first.completion_tokens, 0.7)
    assert torch.allclose(realised(logprob, first), found["logprobs"], atol=1e-5)
    assert AutoTokenizer.from_pretrained(path)("5")["input_ids"] == [5]
    assert not path.with_name(path.name + ".partial").exists()


def read(model, context, completion, temperature):
    """Log-probs [T, V] and final hidden states [T, H] that predict `completion`, one sequence at a time, no padding."""
    ids = torch.tensor([*context, *completion], dtype=torch.long)[None]
    out = model(ids, output_hidden_states=True)
    span = slice(len(context) - 1, len(context) + len(completion) - 1)
    return torch.log_softmax(out.logits[0, span] / temperature, -1), out.hidden_states[-1][0, span]


def realised(logprob, rollout):
    return logprob.gather(-1, torch.tensor(rollout.completion_tokens, dtype=torch.long)[:, None])[:, 0]


def literal_step(path, config, rollouts=ROLLOUTS):
    """The first step's loss and gradient, in float64, written from the formulas; teacher and student weigh the same."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    settings, tau = config.objective, config.rollout.temperature
    rows = []
    for rollout in (rollout for rollout in rollouts if len(rollout.completion_tokens)):
        y = rollout.completion_tokens
        with torch.no_grad():
            primary, *others = ((view.kind.value, *read(model, view.tokens, y, tau)) for view in rollout.views)
        student, hidden = read(model, rollout.prompt_tokens, y, tau)
        rows.append((rollout, student, hidden, primary, others))
    divergence = [jensen_shannon(student, primary[1], settings.divergence.alpha) for _, student, _, primary, _ in rows]
    kappa = torch.cat(divergence).detach().quantile(settings.clipping.quantile)
    disagreement = [
        torch.stack([realised(logprob, rollout) for kind, logprob, _ in others if kind == "auxiliary"]).var(
            0, correction=0
        )
        for rollout, _, _, _, others in rows
    ]
    scale = max(float(torch.cat(disagreement).quantile(settings.agreement.scale_quantile)), 1e-6)
    main, feature, contrast = [], [], []
    for (rollout, student, hidden, primary, others), one, apart in zip(rows, divergence, disagreement, strict=True):
        weight = (1 / (1 + settings.agreement.gamma * (apart / scale).clamp(max=settings.agreement.cap))).clamp(
            min=settings.agreement.floor
        )
        main.append((weight * torch.where(one <= kappa, one, kappa)).sum() / weight.sum())
        feature.append((hidden - primary[2]).square().mean(-1).mean())
        for _, logprob, _ in (other for other in others if other[0] == "negative"):
            s, p, n = (realised(each, rollout) for each in (student, primary[1], logprob))
            contrast.append((settings.contrastive.margin + (s - p).abs() - (s - n).abs()).clamp(min=0).mean())
    loss = (
        torch.stack(main).mean()
        + settings.contrastive.weight * torch.stack(contrast).mean()
        + settings.matching.weight * torch.stack(feature).mean()
    )
    loss.backward()
    return float(loss.detach()), {name: parameter.grad for name, parameter in model.named_parameters()}


def jensen_shannon(student, teacher, alpha):
    mixture = ((1 - alpha) * student.exp() + alpha * teacher.exp()).log()
    from_teacher = (teacher.exp() * (teacher - mixture)).sum(-1)
    return alpha * from_teacher + (1 - alpha) * (student.exp() * (student - mixture)).sum(-1)

"""What the UniSD authors' released code gets wrong and ours must not: one test a line of `method.md`, section 8.

Lines that need DeepSpeed or a run are proven where those are: 1 (the teacher follows the adapter) and 9 (the base is
never written) in tests/integration/test_lora_training.py, 14 (the teacher is in the checkpoint) where a run is resumed.
Line 4 is proven again over DeepSpeed in tests/integration/test_learner_layouts.py. Of line 12 only the grading is here:
no task runs code.
"""

import math
import re
from dataclasses import asdict

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.fakes.objective_expected import literal_threshold, literal_tokens
from tests.fakes.objective_oracle import ALL_FIVE, PLAIN, SEQUENCE, TOKEN, changed, contrast_of, random_problem
from tests.fakes.objective_steps import over_ranks, relative_difference, single
from tests.fakes.prepared import made, prepared_stream
from unisd_rl.config import Config
from unisd_rl.config.contexts import ContextsConfig, RandomAuxiliary, TaskNegative
from unisd_rl.config.load import load_recipe
from unisd_rl.config.objective import ObjectiveConfig
from unisd_rl.config.schema import ineffective_settings
from unisd_rl.contexts.prompts import PreparationReport, prompt_of
from unisd_rl.errors import UserError
from unisd_rl.objective.agreement import disagreement
from unisd_rl.objective.kernels.chunked import token_logprobs
from unisd_rl.objective.kernels.head import Head
from unisd_rl.run import checked_request, notes
from unisd_rl.tasks.arithmetic import Arithmetic
from unisd_rl.tasks.records import Records
from unisd_rl.types import Example, Prompt, ViewKind

TASK = Arithmetic(train_examples=60, eval_examples=5, seed=0)
CONTEXTS = ContextsConfig(auxiliary=RandomAuxiliary(views=3), negative=TaskNegative())
READS_ALL = ObjectiveConfig(divergence={}, agreement={"level": "token"}, contrastive={"signal": "logprob"})
ALL_VIEWS = Config(contexts=CONTEXTS, objective=READS_ALL)


@pytest.mark.parametrize("agreement", [TOKEN, SEQUENCE])
def test_line_02_gamma_changes_the_gradient(agreement):
    """Under sequence weights too: they do not cancel in the mean they weigh."""
    problem = random_problem(10)
    weak, strong = (single(problem, changed(PLAIN, agreement=changed(agreement, gamma=gamma))) for gamma in (0.01, 2.0))
    assert relative_difference(weak.hidden_NH, strong.hidden_NH) > 1e-2
    assert relative_difference(weak.weight_VH, strong.weight_VH) > 1e-2


def test_line_03_the_variance_is_of_the_population_and_one_view_is_refused_with_the_reason():
    assert torch.equal(disagreement(torch.tensor([[-1.0, -2.0]]), "variance"), torch.zeros(2, dtype=torch.float64))
    assert disagreement(torch.tensor([[-1.0], [-2.0]]), "variance").item() == pytest.approx(0.25)
    with pytest.raises(UserError, match=r"views = 1: agreement compares views, so it needs at least 2"):
        load_recipe("unisd_star", {"contexts": {"auxiliary": {"views": 1}}})
    with pytest.raises(ValueError, match="1 is too few, at least 2"):
        single(random_problem(views=1), ALL_FIVE)


@pytest.mark.parametrize("objective", [ALL_FIVE, changed(ALL_FIVE, agreement=SEQUENCE)], ids=["token", "sequence"])
@pytest.mark.parametrize("owners", [[0, 0, 0, 0, 0], [0, 1, 1, 0, 1], [1, 1, 0, 1, 1], [1, 1, 1, 1, 1]])
@pytest.mark.parametrize("micro_batches", [1, 4])
def test_line_04_one_and_two_ranks_and_one_and_four_micro_batches_give_the_same_gradient(
    objective, owners, micro_batches
):
    """Both quantiles are on; ranks have unequal token counts, one of them none; threshold and scale are the step's."""
    problem = random_problem(12, lengths=(6, 2, 0, 9, 5))
    whole = single(problem, objective)
    owner_N = torch.tensor(owners)[problem.sequence_N]
    hidden_NH, weight_VH, steps = over_ranks(problem, objective, owner_N, max(owners) + 1, [0, 2, 3, 5][:micro_batches])
    assert relative_difference(hidden_NH, whole.hidden_NH) < 1e-5
    assert relative_difference(weight_VH, whole.weight_VH) < 1e-5
    for step in steps:
        assert asdict(step.weights) == pytest.approx(asdict(whole.weights), rel=1e-9, nan_ok=True)
        assert step.counts == whole.counts


def test_line_05_one_temperature_is_of_every_view_and_the_auxiliary_ones_may_have_their_own():
    one, own = (
        load_recipe("unisd_star", {"objective": {"temperature": 0.7, **more}}).objective_settings
        for more in ({}, {"auxiliary_temperature": 1.0})
    )
    assert (one.temperature, one.auxiliary_temperature) == (0.7, 0.7)
    assert (own.temperature, own.auxiliary_temperature) == (0.7, 1.0)
    problem = random_problem(9)
    assert relative_difference(
        single(problem, changed(ALL_FIVE, temperature=1.0)).hidden_NH, single(problem, ALL_FIVE).hidden_NH
    ) > 1e-3  # fmt: skip
    logprobs = [
        token_logprobs(problem.student_NH, Head(problem.weight_VH), problem.targets_N, temperature, 4)
        for temperature in (one.auxiliary_temperature, own.auxiliary_temperature)
    ]
    assert relative_difference(*logprobs) > 1e-2


def test_line_06_a_clip_that_can_never_bind_is_named_and_the_clipped_share_is_counted():
    problem, free = random_problem(11), changed(ALL_FIVE, clip_quantile=None)
    divergences = literal_tokens(problem, ALL_FIVE).divergence
    threshold = literal_threshold(divergences, ALL_FIVE)
    expected = sum(divergence > threshold for divergence in divergences) / len(divergences)
    assert expected > 0
    assert single(problem, ALL_FIVE).loss.clipped_share == pytest.approx(expected)
    assert single(problem, changed(free, clip_threshold=10.0)).loss.clipped_share == 0.0
    never = load_recipe("unisd_star", {"objective": {"clipping": {"quantile": None, "threshold": 10.0}}})
    (sentence,) = ineffective_settings(never)
    assert sentence == "clip threshold 10 can never bind: the divergence with alpha 0.5 is at most 0.6931"
    clip = ["--objective.clipping.quantile", "null", "--objective.clipping.threshold", "10"]
    assert sentence in notes(checked_request(["unisd_star", *clip]).config)


def test_line_07_the_combined_recipe_has_all_five_mechanisms_and_each_changes_the_gradient():
    config = load_recipe("unisd_star")
    assert config.objective.ema is not None
    assert config.objective.ema.beta < 1.0
    objective, problem = config.objective_settings, random_problem(15, (40, 60, 0, 30, 50, 20))
    assert ineffective_settings(config) == ()
    whole = single(problem, objective)
    assert whole.weights.weight_p05 < 0.9
    assert whole.loss.clipped_share > 0
    without = {
        "agreement": changed(objective, agreement=None),
        "clipping": changed(objective, clipping=None),
        "contrastive": changed(objective, contrastive=None),
        "matching": changed(objective, matching=None),
    }
    for name, less in without.items():
        assert less != objective, name
        assert relative_difference(single(problem, less).hidden_NH, whole.hidden_NH) > 1e-3, name


class LargestTensor(TorchDispatchMode):
    """The most elements that any tensor made meanwhile had room for."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.untyped_storage().nbytes() // 4)
        return result


@pytest.mark.parametrize("contrastive", [ALL_FIVE.contrastive, contrast_of(0.5, weight=0.3, margin=0.1)])
def test_line_08_no_tensor_of_all_tokens_times_the_vocabulary_exists_and_views_leave_one_number_a_token(contrastive):
    """200 tokens, 300 entries, chunks of 8: nothing larger than the logits of a chunk, in any pass of a step."""
    problem = random_problem(1, lengths=(80, 70, 50), vocabulary=300)
    hidden_NH, head = problem.teacher_NH.float(), Head(problem.teacher_weight_VH.float())
    with LargestTensor() as largest:
        logprob_N = token_logprobs(hidden_NH, head, problem.targets_N, 0.7, 8)
        single(problem, changed(ALL_FIVE, contrastive=contrastive, chunk_tokens=8))
    assert logprob_N.shape == (200,)
    assert largest.elements <= 8 * 300


def test_line_10_a_prompt_with_too_long_a_view_is_dropped_and_counted_and_no_view_is_cut():
    """Sixty problems of many lengths; a few have a view beyond the limit, though no student prompt is."""
    examples = [Example(f"{n}", f"Why {n * n}?", f"{'so ' * (7 * n % 61)}\nAnswer: {n}", f"{n}") for n in range(60)]
    task = Records(examples, [])
    whole = prompts_of(task)
    limit = sorted(longest_view(prompt) for prompt in whole.values())[-4]
    fitting = {name: prompt for name, prompt in whole.items() if longest_view(prompt) <= limit}
    kept = len(fitting)
    assert {len(prompt.views) for prompt in whole.values()} == {5}
    assert 57 <= kept < 60
    stream = prepared_stream(ALL_VIEWS, task, fits=lambda prompt: longest_view(prompt) <= limit)
    report = stream.preparation
    assert report == PreparationReport(
        examples=60,
        kept=kept,
        too_long=60 - kept,
        right=report.right,
        longest=report.longest,
        longest_id=report.longest_id,
    )
    assert report.longest > limit
    assert report.longest_id not in fitting
    assert {stream.prompt(number).prompt.id: stream.prompt(number).prompt for number in range(kept)} == fitting
    assert all(len(prompt.messages[-1].content) < limit for prompt in whole.values())
    assert all(
        examples[int(name)].question in view.messages[-1].content
        for name, prompt in fitting.items()
        for view in prompt.views
    )


def prompts_of(task) -> dict[str, Prompt]:
    """Every training problem with all its views, by its id."""
    rows = zip(task.train, made(ALL_VIEWS, task), strict=True)
    return {example.id: prompt_of(task, ALL_VIEWS, example, row.contexts) for example, row in rows}


def longest_view(prompt: Prompt) -> int:
    return max(len(view.messages[-1].content) for view in prompt.views)


def test_line_11_no_auxiliary_view_contains_its_own_problems_answer_or_solution():
    prompts = prompts_of(TASK)
    for example in TASK.train:
        answer = re.compile(rf"(?<!\d){example.answer}(?!\d)")
        views = prompts[example.id].views
        auxiliary = [view.messages[-1].content for view in views if view.kind is ViewKind.AUXILIARY]
        assert len(auxiliary) == 3
        for content in auxiliary:
            assert example.demonstration not in content
            assert not answer.search(content.removesuffix(example.question))


@pytest.mark.parametrize(
    "completion, right",
    [
        ("Answer: B", True),
        ("Answer: A\nNo, wait.\nAnswer: B", True),
        ("Answer: B\nNo, wait.\nAnswer: A", False),
        ("Answer: Because the sun rises", False),
        ("Answer: Bears", False),
        ("A bear, so it is\nAnswer: B", True),
        ("answer: b", True),
    ],
)
def test_line_12_the_last_stated_answer_counts_and_a_word_is_no_letter(completion, right):
    assert Records([], []).grade(completion, Example("0", "Which?", "It is B.\nAnswer: B", "B")) is right


def test_line_12_the_last_stated_number_counts_whole():
    example = Example("47+36", "What is 47+36?", "unused", "83")
    assert TASK.grade("Answer: 73\nAnswer: 83", example)
    assert not TASK.grade("Answer: 83\nAnswer: 73", example)
    assert not TASK.grade("Answer: 83rd", example)


@pytest.mark.parametrize("agreement", [None, TOKEN, SEQUENCE])
def test_line_13_the_denominator_counts_rows_with_tokens(agreement):
    objective = changed(ALL_FIVE, agreement=agreement, likelihood_weight=0.5)
    among, alone = random_problem(2, lengths=(2, 0, 3, 0, 0, 1)), random_problem(2, lengths=(2, 3, 1))
    ours, expected = single(among, objective), single(alone, objective)
    assert ours.counts.sequences == 3
    assert ours.loss.loss == pytest.approx(expected.loss.loss, rel=1e-6)
    assert torch.equal(ours.hidden_NH, expected.hidden_NH)
    assert not math.isclose(ours.loss.loss, 0.0)

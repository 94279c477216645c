"""The chunked pass: the gradient of dense float64 autograd for every head and chunk size, in bounded memory."""

from copy import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from tests.fakes.objective_oracle import ALL_FIVE, PLAIN, changed, dense_divergence, dense_logprobs
from tests.fakes.objective_terms import Coefficients, token_terms
from unisd_rl.config.objective import DivergenceContrast, TotalVariation
from unisd_rl.objective.contrastive import DivergenceContrastTerm, LogprobContrastTerm
from unisd_rl.objective.kernels.chunk_logits import ChunkedLogits, HiddenStates
from unisd_rl.objective.kernels.chunked import scored_tokens, token_divergence, token_logprobs
from unisd_rl.objective.kernels.head import Head

CONTRASTED = changed(PLAIN, contrastive=ALL_FIVE.contrastive)
# A margin at which some of the random tokens' hinges are open and some are closed.
AGAINST = changed(PLAIN, contrastive=DivergenceContrast(weight=0.3, margin=0.05, alpha=0.5))
EVERYTHING = changed(AGAINST, likelihood_weight=0.2)
HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "soft cap": {"soft_cap": 2.0},
    "scale": {"scale": 0.3},
    "all": {"bias": True, "soft_cap": 3.0, "scale": 1.7},
}


class Case:
    """Random numbers, exact in float32, held in float64; `run` is ours in float32, `dense` autograd in float64."""

    def __init__(self, seed=0, tokens=11, hidden=6, vocabulary=13, bias=False, soft_cap=None, scale=1.0):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=generator).double()

        self.teacher_NH = normal(tokens, hidden)
        self.student_NH = (self.teacher_NH + 0.5 * normal(tokens, hidden)).float().double()
        self.negative_NH = (self.teacher_NH + 0.5 * normal(tokens, hidden)).float().double()
        self.weight_VH, self.teacher_weight_VH = normal(vocabulary, hidden), normal(vocabulary, hidden)
        self.bias_V = normal(vocabulary) if bias else None
        self.soft_cap, self.scale = soft_cap, scale
        self.targets_N = torch.randint(vocabulary, (tokens,), generator=generator)
        primary_N = dense_logprobs(self.teacher_NH, self.head(self.teacher_weight_VH, self.bias_V), 0.7)
        primary_N = primary_N.gather(1, self.targets_N[:, None])[:, 0].float()
        self.given = Coefficients(
            divergence_N=torch.rand(tokens, generator=generator),
            contrastive_N=torch.rand(tokens, generator=generator),
            primary_N=primary_N,
            negative_N=primary_N - 2.0 * torch.randn(tokens, generator=generator),
            likelihood_N=torch.rand(tokens, generator=generator),
        )

    def head(self, weight_VH, bias_V):
        return Head(weight_VH, bias_V, self.soft_cap, self.scale)

    def leaves(self, dtype):
        tensors = (self.student_NH, self.weight_VH, self.bias_V)
        return [None if tensor is None else tensor.to(dtype, copy=True).requires_grad_() for tensor in tensors]

    def scored(self, objective, student_NH, student_head, teacher_NH=None, teacher_head=None, negative_NH=None):
        """Ours with the terms that are on, of any states and heads."""
        states, terms = HiddenStates(student_NH, teacher_NH, negative_NH), token_terms(objective, self.given)
        sizes = (objective.temperature, objective.chunk_tokens)
        return scored_tokens(states, student_head, teacher_head, self.targets_N, terms, *sizes)

    def run(self, objective, dtype=torch.float32):
        student_NH, weight_VH, bias_V = self.leaves(dtype)
        teacher_head = self.head(
            self.teacher_weight_VH.to(dtype), None if self.bias_V is None else self.bias_V.to(dtype)
        )
        negative_NH = self.negative_NH.to(dtype) if isinstance(objective.contrastive, DivergenceContrast) else None
        teacher = (self.teacher_NH.to(dtype), teacher_head)
        scored = self.scored(objective, student_NH, self.head(weight_VH, bias_V), *teacher, negative_NH)
        wanted = [leaf for leaf in (student_NH, weight_VH, bias_V) if leaf is not None]
        return scored, torch.autograd.grad(scored.loss, wanted)

    def dense(self, objective):
        student_NH, weight_VH, bias_V = self.leaves(torch.float64)
        student_NV = dense_logprobs(student_NH, self.head(weight_VH, bias_V), objective.temperature)
        teacher_head = self.head(self.teacher_weight_VH, self.bias_V)
        teacher_NV = dense_logprobs(self.teacher_NH, teacher_head, objective.temperature)
        loss = student_NH.sum() * 0.0
        if objective.divergence is not None:
            divergence_N = dense_divergence(student_NV, teacher_NV, objective.divergence)
            if self.given.clip_threshold is not None:
                divergence_N = divergence_N.clamp(max=self.given.clip_threshold)
            loss = loss + (self.given.divergence_N * divergence_N).sum()
        s_N = student_NV.gather(1, self.targets_N[:, None])[:, 0]
        if objective.likelihood is not None:
            loss = loss - (self.given.likelihood_N * s_N).sum()
        if isinstance(objective.contrastive, DivergenceContrast):
            hinge_N = self.dense_gap(student_NV, teacher_NV, objective) + objective.contrastive.margin
            loss = loss + (self.given.contrastive_N * hinge_N.clamp(min=0)).sum()
        elif objective.contrastive is not None:
            distance_N = (s_N - self.given.primary_N).abs() - (s_N - self.given.negative_N).abs()
            loss = loss + (self.given.contrastive_N * (distance_N + objective.contrastive.margin).clamp(min=0)).sum()
        wanted = [leaf for leaf in (student_NH, weight_VH, bias_V) if leaf is not None]
        return loss.detach(), torch.autograd.grad(loss, wanted)

    def dense_gap(self, student_NV, teacher_NV, objective):
        """`D(S, P) - D(S, N)` of the contrast's alpha."""
        teacher_head = self.head(self.teacher_weight_VH, self.bias_V)
        negative_NV = dense_logprobs(self.negative_NH, teacher_head, objective.temperature)
        kind = objective.contrastive.divergence
        return dense_divergence(student_NV, teacher_NV, kind) - dense_divergence(student_NV, negative_NV, kind)

    def in_order(self, order_N):
        """The same tokens in another order."""
        case = copy(self)
        for name in ("student_NH", "teacher_NH", "negative_NH", "targets_N"):
            setattr(case, name, getattr(self, name)[order_N])
        case.given = self.given.tokens(order_N)
        return case


def divergence_of(scored):
    """Of the only measure there is."""
    (divergence_N,) = scored.scores.divergences.values()
    return divergence_N


def assert_same(ours, dense, rtol=2e-5, atol=2e-6):
    for left, right in zip(ours, dense, strict=True):
        torch.testing.assert_close(left.double(), right.double(), rtol=rtol, atol=atol * float(right.abs().max() + 1))


@pytest.mark.parametrize("alpha", [None, 0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_loss_and_gradient_equal_dense_autograd(alpha, head):
    case, objective = Case(**head), changed(CONTRASTED, alpha=alpha, chunk_tokens=4)
    case.given = replace(case.given, clip_threshold=0.1)
    scored, ours = case.run(objective)
    loss, dense = case.dense(objective)
    assert scored.loss.item() == pytest.approx(float(loss), rel=1e-5)
    assert_same(ours, dense)


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_total_variation_equals_dense_autograd_alone_and_beside_another_divergence(head):
    case = Case(**head)
    case.given = replace(case.given, clip_threshold=0.4)
    for objective in (changed(CONTRASTED, divergence=TotalVariation()), changed(AGAINST, divergence=TotalVariation())):
        scored, ours = case.run(changed(objective, chunk_tokens=4))
        loss, dense = case.dense(objective)
        assert scored.loss.item() == pytest.approx(float(loss), rel=1e-5)
        assert_same(ours, dense)


@pytest.mark.parametrize("alpha", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("contrast_alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("head", [HEADS["plain"], HEADS["all"]], ids=["plain", "all"])
def test_the_contrast_of_divergences_equals_dense_autograd_with_any_two_alphas(alpha, contrast_alpha, head):
    contrast = DivergenceContrast(weight=0.3, margin=0.05, alpha=contrast_alpha)
    case, objective = Case(**head), changed(EVERYTHING, alpha=alpha, contrastive=contrast)
    case.given.contrastive_N[2] = 0.0  # a token without a negative view
    scored, ours = case.run(objective)
    loss, dense = case.dense(objective)
    assert scored.loss.item() == pytest.approx(float(loss), rel=1e-5)
    assert_same(ours, dense)


def test_the_hinge_on_divergences_is_reported_and_says_where_it_acts():
    case = Case()
    case.given.contrastive_N[:] = 1.0
    case.given.contrastive_N[2] = 0.0
    scored, _ = case.run(AGAINST)
    student_NV = dense_logprobs(case.student_NH, Head(case.weight_VH), AGAINST.temperature)
    teacher_NV = dense_logprobs(case.teacher_NH, Head(case.teacher_weight_VH), AGAINST.temperature)
    expected_N = (case.dense_gap(student_NV, teacher_NV, AGAINST) + 0.05).clamp(min=0)
    (term,) = (term for term in token_terms(AGAINST, case.given) if isinstance(term, DivergenceContrastTerm))
    torch.testing.assert_close(term.hinge(scored.scores).double(), expected_N, rtol=1e-4, atol=1e-6)
    open_N = expected_N > 0
    assert {bool(is_open) for is_open in open_N} == {True, False}
    open_N[2] = False
    assert torch.equal(term.active(scored.scores), open_N)
    assert [int(total) for total in term.totals(scored.scores)] == [10, int(open_N.sum())]


def test_the_hinge_on_logprobs_is_reported():
    case = Case()
    scored, _ = case.run(CONTRASTED)
    s_N, given = scored.scores.logprob_N, case.given
    expected_N = (1.0 + (s_N - given.primary_N).abs() - (s_N - given.negative_N).abs()).clamp(min=0)
    (term,) = (term for term in token_terms(CONTRASTED, given) if isinstance(term, LogprobContrastTerm))
    torch.testing.assert_close(term.hinge(scored.scores), expected_N)


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_the_likelihood_alone_needs_no_teacher_and_equals_cross_entropy(head):
    case = Case(**head)
    objective = changed(PLAIN, alpha=None, likelihood_weight=0.2)
    student_NH, weight_VH, bias_V = case.leaves(torch.float32)
    scored = case.scored(objective, student_NH, case.head(weight_VH, bias_V))
    loss, dense = case.dense(objective)
    assert scored.loss.item() == pytest.approx(float(loss), rel=1e-5)
    assert_same(
        torch.autograd.grad(scored.loss, [leaf for leaf in (student_NH, weight_VH, bias_V) if leaf is not None]), dense
    )


@pytest.mark.parametrize("alpha", [None, 0.0, 0.5])
def test_the_likelihood_adds_to_the_other_terms(alpha):
    case, objective = Case(seed=5), changed(CONTRASTED, alpha=alpha, likelihood_weight=0.2)
    scored, ours = case.run(objective)
    loss, dense = case.dense(objective)
    assert scored.loss.item() == pytest.approx(float(loss), rel=1e-5)
    assert_same(ours, dense)


def test_likelihood_coefficients_without_a_likelihood_term_change_nothing():
    case = Case()
    scored, _ = case.run(PLAIN)
    case.given.likelihood_N.zero_()
    assert torch.equal(scored.loss, case.run(PLAIN)[0].loss)


@given(seed=st.integers(0, 1000), data=st.data())
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_tokens_changes_only_the_order_of_their_gradients(seed, data):
    case = Case(seed=seed)
    order_N = torch.tensor(data.draw(st.permutations(range(11))))
    plain, (hidden_NH, weight_VH) = case.run(EVERYTHING)
    moved, (moved_NH, moved_VH) = case.in_order(order_N).run(EVERYTHING)
    torch.testing.assert_close(moved.loss, plain.loss, rtol=1e-5, atol=1e-6)
    assert_same((moved_NH, moved_VH), (hidden_NH[order_N], weight_VH))


@given(seed=st.integers(0, 1000), size=st.sampled_from([1.0, 300.0, 1e4]), alpha=st.sampled_from([None, 0.0, 0.5, 1.0]))
@settings(max_examples=40, deadline=None)
def test_logits_of_any_size_give_finite_losses_and_gradients(seed, size, alpha):
    """At 1e4 all but one probability underflow to zero."""
    case = Case(seed=seed)
    for name in ("student_NH", "teacher_NH", "negative_NH"):
        setattr(case, name, getattr(case, name) * size)
    scored, gradients = case.run(changed(EVERYTHING, alpha=alpha))
    assert torch.isfinite(scored.loss)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("alpha", [None, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_temperature_is_part_of_every_distribution(alpha, temperature):
    case, objective = Case(seed=3), changed(CONTRASTED, alpha=alpha, temperature=temperature)
    loss, dense = case.dense(objective)
    scored, ours = case.run(objective)
    assert scored.loss.item() == pytest.approx(float(loss), rel=1e-5)
    # Low temperatures make large logits, whose rounding the reverse KL's derivative carries in full.
    assert_same(ours, dense, atol=2e-6 / min(1.0, temperature))


@given(seed=st.integers(0, 1000), chunk=st.integers(1, 20), tokens=st.integers(1, 17))
@settings(max_examples=30, deadline=None)
def test_the_chunk_size_changes_nothing(seed, chunk, tokens):
    case = Case(seed=seed, tokens=tokens)
    whole, whole_gradient = case.run(changed(EVERYTHING, chunk_tokens=64))
    cut, cut_gradient = case.run(changed(EVERYTHING, chunk_tokens=chunk))
    torch.testing.assert_close(cut.loss, whole.loss, rtol=1e-5, atol=1e-6)
    for measure, whole_N in whole.scores.divergences.items():
        torch.testing.assert_close(cut.scores.divergences[measure], whole_N, rtol=1e-5, atol=1e-6)
    assert_same(cut_gradient, whole_gradient)


def test_blocks_of_rows_smaller_than_a_chunk_change_nothing():
    """With 2^18 entries four rows fill a block: a chunk of 5 rows has blocks of 4 and 1."""
    case = Case(tokens=5, hidden=2, vocabulary=1 << 18, soft_cap=3.0)
    objective = changed(CONTRASTED, chunk_tokens=5)
    _, ours = case.run(objective)
    _, dense = case.dense(objective)
    assert_same(ours, dense, rtol=1e-3)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_divergence_pass_finds_the_numbers_of_the_gradient_pass(alpha):
    case, objective = Case(bias=True), changed(PLAIN, alpha=alpha)
    scored, _ = case.run(objective)
    divergence_N = token_divergence(
        case.student_NH.float(),
        case.head(case.weight_VH.float(), case.bias_V.float()),
        case.teacher_NH.float(),
        case.head(case.teacher_weight_VH.float(), case.bias_V.float()),
        objective.divergence,
        objective.temperature,
        objective.chunk_tokens,
    )
    assert torch.equal(divergence_N, divergence_of(scored))


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_token_logprobs_equal_the_dense_log_softmax(head):
    case = Case(**head)
    bias_V = None if case.bias_V is None else case.bias_V.float()
    found_N = token_logprobs(case.student_NH.float(), case.head(case.weight_VH.float(), bias_V), case.targets_N, 0.7, 3)
    dense_NV = dense_logprobs(case.student_NH, case.head(case.weight_VH, case.bias_V), 0.7)
    expected_N = dense_NV.gather(1, case.targets_N[:, None])[:, 0]
    torch.testing.assert_close(found_N.double(), expected_N, rtol=1e-5, atol=1e-6)
    scored, _ = case.run(PLAIN)
    torch.testing.assert_close(scored.scores.logprob_N, found_N, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_logits_of_ten_thousand_give_finite_loss_and_gradient(alpha):
    case = Case()
    case.student_NH, case.teacher_NH = case.student_NH * 3e3, case.teacher_NH * 3e3
    scored, gradients = case.run(changed(CONTRASTED, alpha=alpha))
    assert torch.isfinite(scored.loss)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_a_student_equal_to_its_teacher_has_zero_loss_and_gradient(alpha):
    case = Case()
    case.student_NH, case.teacher_weight_VH = case.teacher_NH, case.weight_VH
    scored, gradients = case.run(changed(PLAIN, alpha=alpha))
    assert scored.loss.item() == 0.0
    assert all(float(gradient.abs().max()) == 0.0 for gradient in gradients)


def test_tokens_at_or_below_the_threshold_keep_their_whole_gradient_and_those_above_have_none():
    case = Case()
    divergence_N = divergence_of(case.run(PLAIN)[0])
    tied = int(divergence_N.argsort()[5])
    threshold = float(divergence_N[tied])
    _, unclipped = case.run(PLAIN)
    case.given = replace(case.given, clip_threshold=threshold)
    scored, clipped = case.run(PLAIN)
    kept_N = divergence_N <= threshold
    assert bool(kept_N[tied])
    assert int(kept_N.sum()) == 6
    assert torch.equal(clipped[0][kept_N], unclipped[0][kept_N])
    assert float(clipped[0][~kept_N].abs().max()) == 0.0
    expected = (case.given.divergence_N * divergence_N.clamp(max=threshold)).sum()
    torch.testing.assert_close(scored.loss, expected)


def test_a_tie_decided_beforehand_stays_decided_when_a_second_computation_rounds_it_up():
    case = Case()
    free, unclipped = case.run(PLAIN)
    divergence_N = divergence_of(free)
    threshold = float(divergence_N[3].nextafter(torch.tensor(0.0)))
    settled_N = divergence_N <= float(divergence_N[3])
    case.given = replace(case.given, clip_threshold=threshold, unclipped_N=settled_N)
    _, clipped = case.run(PLAIN)
    assert torch.equal(clipped[0][3], unclipped[0][3])


def test_the_head_may_be_shared_with_the_teacher():
    case = Case()
    student_NH, weight_VH, _ = case.leaves(torch.float32)
    head = Head(weight_VH)
    scored = case.scored(changed(PLAIN, alpha=0.5), student_NH, head, case.teacher_NH.float(), head)
    ours = torch.autograd.grad(scored.loss, (student_NH, weight_VH))
    case.teacher_weight_VH = case.weight_VH
    _, dense = case.dense(changed(PLAIN, alpha=0.5))
    assert_same(ours, dense)


@pytest.mark.parametrize("objective", [CONTRASTED, EVERYTHING])
def test_half_precision_inputs_are_computed_in_float32_and_get_gradients_of_their_own_type(objective):
    case = Case()
    for name in ("student_NH", "weight_VH", "teacher_NH", "teacher_weight_VH", "negative_NH"):
        setattr(case, name, getattr(case, name).bfloat16().double())
    scored, ours = case.run(objective, dtype=torch.bfloat16)
    loss, dense = case.dense(objective)
    assert scored.loss.dtype == torch.float32
    assert scored.loss.item() == pytest.approx(float(loss), rel=1e-5)
    assert all(gradient.dtype == torch.bfloat16 for gradient in ours)
    assert_same(ours, dense, rtol=1e-2)


def test_no_tokens_give_a_zero_loss_with_a_gradient_path():
    case = Case(tokens=0, bias=True)
    scored, gradients = case.run(CONTRASTED)
    assert scored.loss.item() == 0.0
    assert [tuple(gradient.shape) for gradient in gradients] == [(0, 6), (13, 6), (13,)]
    assert all(float(gradient.abs().sum()) == 0.0 for gradient in gradients)


def test_the_incoming_gradient_scales_ours():
    case = Case()
    _, plain = case.run(PLAIN)
    student_NH, weight_VH, _ = case.leaves(torch.float32)
    teacher = (case.teacher_NH.float(), Head(case.teacher_weight_VH.float()))
    scored = case.scored(PLAIN, student_NH, Head(weight_VH), *teacher)
    (4.0 * scored.loss).backward()
    torch.testing.assert_close(student_NH.grad, 4.0 * plain[0])
    torch.testing.assert_close(weight_VH.grad, 4.0 * plain[1])


def test_a_second_backward_pass_is_refused():
    case = Case()
    student_NH, weight_VH, _ = case.leaves(torch.float32)
    teacher = (case.teacher_NH.float(), Head(case.teacher_weight_VH.float()))
    scored = case.scored(PLAIN, student_NH, Head(weight_VH), *teacher)
    scored.loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second time"):
        scored.loss.backward()


@pytest.mark.parametrize("objective", [PLAIN, AGAINST, changed(AGAINST, alpha=None)])
def test_a_missing_teacher_or_negative_view_is_refused_where_it_is_needed(objective):
    case = Case()
    student = (case.student_NH.float(), Head(case.weight_VH.float()))
    with pytest.raises(ValueError, match="teacher's states"):
        case.scored(objective, *student)
    if objective is not PLAIN:
        teacher = (case.teacher_NH.float(), Head(case.teacher_weight_VH.float()))
        with pytest.raises(ValueError, match="negative view"):
            case.scored(objective, *student, *teacher)


class Watch(TorchDispatchMode):
    """Adds up the multiplications of all matrix products, and remembers the largest tensor that was made."""

    PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_, torch.ops.mkldnn._linear_pointwise)

    def __init__(self):
        super().__init__()
        self.multiplications = self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in self.PRODUCTS:
            first = args[0] if func.overloadpacket in (self.PRODUCTS[0], self.PRODUCTS[3]) else args[1]
            self.multiplications += result.numel() * first.shape[1]
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.untyped_storage().nbytes() // 4)
        return result

    def products(self, case):
        """How many products of all tokens with the whole head that is."""
        return self.multiplications / (len(case.targets_N) * case.weight_VH.numel())


@pytest.mark.parametrize(
    "objective, frozen, products",
    [
        (PLAIN, False, 4),
        (PLAIN, True, 3),
        (CONTRASTED, False, 4),
        (CONTRASTED, True, 3),
        (AGAINST, False, 5),
        (AGAINST, True, 4),
        (changed(AGAINST, alpha=None), False, 5),
        (changed(CONTRASTED, alpha=None), False, 3),
        (changed(CONTRASTED, alpha=None), True, 2),
        (changed(PLAIN, alpha=None, likelihood_weight=1.0), True, 2),
        (changed(PLAIN, alpha=None), False, 1),
    ],
)
def test_each_chunk_costs_only_the_products_it_needs(objective, frozen, products):
    case = Case()
    student_NH, weight_VH, _ = case.leaves(torch.float32)
    weight_VH.requires_grad_(not frozen)
    with Watch() as watch:
        teacher = (case.teacher_NH.float(), Head(case.teacher_weight_VH.float()), case.negative_NH.float())
        case.scored(changed(objective, chunk_tokens=4), student_NH, Head(weight_VH), *teacher)
    assert watch.products(case) == products


def test_no_gradient_is_formed_where_none_is_recorded():
    case = Case()
    student_NH, weight_VH, _ = case.leaves(torch.float32)
    with torch.no_grad(), Watch() as watch:
        teacher = (case.teacher_NH.float(), Head(case.teacher_weight_VH.float()))
        scored = case.scored(changed(PLAIN, chunk_tokens=4), student_NH, Head(weight_VH), *teacher)
    assert watch.products(case) == 2
    assert not scored.loss.requires_grad


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_no_tensor_of_all_tokens_times_the_vocabulary_exists(alpha):
    """200 tokens, 300 entries, chunks of 8: nothing larger than a chunk's logits or the head is ever made."""
    case = Case(tokens=200, hidden=4, vocabulary=300)
    with Watch() as watch:
        case.run(changed(EVERYTHING, alpha=alpha, chunk_tokens=8))
    assert watch.largest <= 8 * 300


def test_a_half_precision_head_is_never_copied_to_float32():
    """A head of 10,000 x 8 is cast a tile of the vocabulary at a time; two tokens' logits are 20,000 numbers."""
    hidden_NH, weight_VH = torch.randn(2, 8).bfloat16(), torch.randn(10_000, 8).bfloat16()
    with Watch() as watch:
        logprob_N = token_logprobs(hidden_NH, Head(weight_VH), torch.tensor([9_999, 0]), 0.7, 2)
    assert watch.largest <= 10_000 * 8 / 2  # the head itself, in float32 words
    dense_NV = dense_logprobs(hidden_NH.double(), Head(weight_VH.double()), 0.7)
    torch.testing.assert_close(logprob_N.double(), dense_NV[[0, 1], [9_999, 0]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens, chunk", [(11, 4), (8, 4), (9, 8), (3, 100), (1, 1)])
def test_chunks_are_of_about_one_size_and_at_most_the_one_asked_for(tokens, chunk):
    states = HiddenStates(torch.zeros(tokens, 2))
    sizes = [
        part.stop - part.start for part in ChunkedLogits(states, Head(torch.zeros(3, 2)), None, 1.0, chunk).chunks()
    ]
    assert sum(sizes) == tokens
    assert max(sizes) <= chunk
    assert len(sizes) == -(-tokens // chunk)

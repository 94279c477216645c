"""The two Triton kernels of `triton_backend`, and their arithmetic on one block of a token's vocabulary.

Divergences, by `KIND`: 0 none, 1 forward KL, 2 reverse KL, 3 the mixture in between. A and B are those to the primary
view (B only where main term and contrast differ in alpha), N is the one to the negative view.
`statistics` [10, C]: the log-sum-exps of student, primary, negative; the student's log-prob of the target; the values
of A, B, N; and per divergence the sum its slope needs, which is the reverse KL itself or KL(S || M).
`weights` [4, C]: the derivatives of the loss in A, B, N and in that log-prob. The parameters of a jitted function are
device values, which have no Python types.
"""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl


@triton.jit
def _expm1(x):
    """By series where exp(x) - 1 would cancel; the GPU's exp is not exact enough for cleverer ways."""
    series = x * (1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6 * (1 + x / 7 * (1 + x / 8)))))))
    return tl.where(tl.abs(x) < 0.5, series, tl.exp(x) - 1)


@triton.jit
def _log1p(x):
    """`2 atanh(x / (2 + x))` by series near 0."""
    s = x / (2 + x)
    t = s * s
    odd = 1 + t * (1.0 / 3 + t * (1.0 / 5 + t * (1.0 / 7 + t * (1.0 / 9 + t * (1.0 / 11 + t * (1.0 / 13))))))
    return tl.where(tl.abs(x) < 0.5, 2 * s * odd, tl.log(1 + x))


@triton.jit
def _tanh(x):
    e = _expm1(2 * tl.minimum(tl.maximum(x, -15.0), 15.0))
    return e / (e + 2)


@triton.jit
def _logits(pointer, inside, after, outer, CAP: tl.constexpr):
    """`logits / temperature` of one block from `u`."""
    z = tl.load(pointer, mask=inside, other=0.0).to(tl.float32) * after
    if CAP:
        z = outer * _tanh(z)
    return z


@triton.jit
def _add_to_lse(z, inside, top, total):
    """Online softmax: the running maximum, and the sum of exponentials relative to it."""
    z = tl.where(inside, z, -float("inf"))
    new_top = tl.maximum(top, tl.max(z, axis=0))
    return new_top, total * tl.exp(top - new_top) + tl.sum(tl.exp(z - new_top), axis=0)


@triton.jit
def _mixture(log_ratio, alpha):
    """`log M - log S`."""
    return _log1p(alpha * _expm1(log_ratio))


@triton.jit
def _summands(log_s, log_q, alpha, KIND: tl.constexpr):
    """What one block adds to a divergence, and to the sum that its slope needs."""
    s = tl.exp(log_s)
    log_ratio = log_q - log_s
    if KIND == 1:
        value = tl.exp(log_q) * log_ratio
        needed = value
    elif KIND == 2:
        value = -s * log_ratio
        needed = value
    else:
        log_ratio = tl.minimum(log_ratio, 30.0)
        mixture = _mixture(log_ratio, alpha)
        needed = -s * mixture
        value = alpha * tl.exp(log_q) * (log_ratio - mixture) + (1 - alpha) * needed
    return value, needed


@triton.jit
def _slope(log_s, log_q, alpha, needed, KIND: tl.constexpr):
    """The derivative of a divergence in the student's logits of one block."""
    s = tl.exp(log_s)
    if KIND == 1:
        slope = s - tl.exp(log_q)
    elif KIND == 2:
        slope = -s * (log_q - log_s + needed)
    else:
        slope = (alpha - 1) * s * (_mixture(tl.minimum(log_q - log_s, 30.0), alpha) + needed)
    return slope


@triton.jit
def measure(
    student,
    primary,
    negative,
    targets,
    statistics,
    tokens,
    vocabulary,
    student_after,
    student_outer,
    teacher_after,
    teacher_outer,
    alpha_a,
    alpha_b,
    alpha_n,
    KIND_A: tl.constexpr,
    KIND_B: tl.constexpr,
    KIND_N: tl.constexpr,
    STUDENT_CAP: tl.constexpr,
    TEACHER_CAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per token: fills its column of `statistics` in two passes over its logits."""
    row = tl.program_id(0).to(tl.int64)
    student += row * vocabulary
    primary += row * vocabulary
    negative += row * vocabulary
    statistics += row
    top_s = -float("inf")
    top_p = -float("inf")
    top_n = -float("inf")
    total_s = 0.0
    total_p = 0.0
    total_n = 0.0
    for start in range(0, vocabulary, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < vocabulary
        top_s, total_s = _add_to_lse(
            _logits(student + at, inside, student_after, student_outer, STUDENT_CAP), inside, top_s, total_s
        )
        if KIND_A != 0:
            top_p, total_p = _add_to_lse(
                _logits(primary + at, inside, teacher_after, teacher_outer, TEACHER_CAP), inside, top_p, total_p
            )
        if KIND_N != 0:
            top_n, total_n = _add_to_lse(
                _logits(negative + at, inside, teacher_after, teacher_outer, TEACHER_CAP), inside, top_n, total_n
            )
    lse_s = top_s + tl.log(total_s)
    tl.store(statistics, lse_s)
    target = _logits(student + tl.load(targets + row), True, student_after, student_outer, STUDENT_CAP)
    tl.store(statistics + 3 * tokens, target - lse_s)
    if KIND_A != 0:
        lse_p = top_p + tl.log(total_p)
        tl.store(statistics + tokens, lse_p)
        value_a = 0.0
        needed_a = 0.0
        value_b = 0.0
        needed_b = 0.0
        value_n = 0.0
        needed_n = 0.0
        lse_n = 0.0
        if KIND_N != 0:
            lse_n = top_n + tl.log(total_n)
            tl.store(statistics + 2 * tokens, lse_n)
        for start in range(0, vocabulary, BLOCK):
            at = start + tl.arange(0, BLOCK)
            inside = at < vocabulary
            log_s = _logits(student + at, inside, student_after, student_outer, STUDENT_CAP) - lse_s
            log_p = _logits(primary + at, inside, teacher_after, teacher_outer, TEACHER_CAP) - lse_p
            value, needed = _summands(log_s, log_p, alpha_a, KIND_A)
            value_a += tl.sum(tl.where(inside, value, 0.0), axis=0)
            needed_a += tl.sum(tl.where(inside, needed, 0.0), axis=0)
            if KIND_B != 0:
                value, needed = _summands(log_s, log_p, alpha_b, KIND_B)
                value_b += tl.sum(tl.where(inside, value, 0.0), axis=0)
                needed_b += tl.sum(tl.where(inside, needed, 0.0), axis=0)
            if KIND_N != 0:
                log_n = _logits(negative + at, inside, teacher_after, teacher_outer, TEACHER_CAP) - lse_n
                value, needed = _summands(log_s, log_n, alpha_n, KIND_N)
                value_n += tl.sum(tl.where(inside, value, 0.0), axis=0)
                needed_n += tl.sum(tl.where(inside, needed, 0.0), axis=0)
        tl.store(statistics + 4 * tokens, value_a)
        tl.store(statistics + 5 * tokens, value_b)
        tl.store(statistics + 6 * tokens, value_n)
        tl.store(statistics + 7 * tokens, needed_a)
        tl.store(statistics + 8 * tokens, needed_b)
        tl.store(statistics + 9 * tokens, needed_n)


@triton.jit
def differentiate(
    student,
    primary,
    negative,
    targets,
    statistics,
    weights,
    gradient,
    tokens,
    vocabulary,
    student_after,
    student_outer,
    teacher_after,
    teacher_outer,
    alpha_a,
    alpha_b,
    alpha_n,
    KIND_A: tl.constexpr,
    KIND_B: tl.constexpr,
    KIND_N: tl.constexpr,
    STUDENT_CAP: tl.constexpr,
    TEACHER_CAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per token and block: the loss's gradient in the student's `u`, to `gradient`."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < vocabulary
    place = row * vocabulary + at
    statistics += row
    weights += row
    z = _logits(student + place, inside, student_after, student_outer, STUDENT_CAP)
    log_s = z - tl.load(statistics)
    log_weight = tl.load(weights + 3 * tokens)
    slope = log_weight * (tl.where(at == tl.load(targets + row), 1.0, 0.0) - tl.exp(log_s))
    if KIND_A != 0:
        log_p = _logits(primary + place, inside, teacher_after, teacher_outer, TEACHER_CAP)
        log_p -= tl.load(statistics + tokens)
        slope += tl.load(weights) * _slope(log_s, log_p, alpha_a, tl.load(statistics + 7 * tokens), KIND_A)
        if KIND_B != 0:
            needed = tl.load(statistics + 8 * tokens)
            slope += tl.load(weights + tokens) * _slope(log_s, log_p, alpha_b, needed, KIND_B)
    if KIND_N != 0:
        log_n = _logits(negative + place, inside, teacher_after, teacher_outer, TEACHER_CAP)
        log_n -= tl.load(statistics + 2 * tokens)
        needed = tl.load(statistics + 9 * tokens)
        slope += tl.load(weights + 2 * tokens) * _slope(log_s, log_n, alpha_n, needed, KIND_N)
    if STUDENT_CAP:
        slope *= student_outer - z * z / student_outer
    slope *= student_after
    tl.store(gradient + place, slope.to(gradient.dtype.element_ty), mask=inside)

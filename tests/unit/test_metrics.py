import math
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest

from tests.fakes.step_metrics import step_metrics
from unisd_rl.metrics import READ_PARTS, MismatchMetrics

METRICS = step_metrics({"negative": 2.5})
METRICS = replace(METRICS, loss=replace(METRICS.loss, other_terms={"entropy_loss": 0.5}))


def test_every_number_of_a_step_stands_in_its_line_under_a_name_of_its_own():
    """Two parts with a field of one name would lose a number."""
    parts = [getattr(METRICS, field.name) for field in fields(METRICS)]
    counted = sum(len(fields(part)) if is_dataclass(part) else 1 for part in parts)
    mappings = 2
    assert len(METRICS.flat()) == counted + mappings * (len(READ_PARTS) - 1)
    assert all(isinstance(number, int | float) for number in METRICS.flat().values())


def test_a_part_of_the_step_names_its_seconds_and_its_tokens():
    line = METRICS.flat()
    assert (line["negative_s"], line["negative_tokens"], line["primary_s"]) == (2.5, 0, 0.0)


def test_a_term_of_ones_own_has_its_numbers_in_the_line():
    assert METRICS.flat()["entropy_loss"] == 0.5
    assert "other_terms" not in METRICS.flat()


def test_the_mismatch_of_engine_and_learner_is_what_literal_loops_say():
    draw = np.random.default_rng(0)
    engine, learner = (-draw.exponential(2.0, 150).astype(np.float32) for _ in range(2))
    found = MismatchMetrics.between(engine, learner)
    gaps = [float(b) - float(a) for a, b in zip(engine, learner, strict=True)]
    assert found.logprob_mismatch_tokens == 150
    assert found.logprob_mismatch_max == pytest.approx(max(map(abs, gaps)))
    assert found.logprob_mismatch_rms == pytest.approx(math.sqrt(sum(gap * gap for gap in gaps) / 150))
    ordered = sorted(map(abs, gaps))
    low, high = ordered[147], ordered[148]  # 0.99 of 149 places is 147.51
    assert found.logprob_mismatch_p99 == pytest.approx(low + 0.51 * (high - low))
    assert found.logprob_mismatch_kl == pytest.approx(sum(math.exp(gap) - 1 - gap for gap in gaps) / 150)


def test_the_divergence_of_engine_and_learner_is_estimated_without_bias():
    """Over tokens drawn by the engine the estimate comes to the sum over the vocabulary."""
    draw = np.random.default_rng(1)
    engine, learner = (np.log(draw.dirichlet(np.ones(12))) for _ in range(2))
    exact = float((np.exp(engine) * (engine - learner)).sum())
    tokens = draw.choice(12, size=200_000, p=np.exp(engine))
    found = MismatchMetrics.between(engine[tokens], learner[tokens])
    assert found.logprob_mismatch_kl == pytest.approx(exact, rel=0.03)


def test_an_engine_that_is_hundreds_of_nats_off_has_an_infinite_divergence_and_no_warning():
    with np.errstate(all="raise"):
        assert MismatchMetrics.between(np.array([-1e4]), np.array([0.0])).logprob_mismatch_kl == math.inf

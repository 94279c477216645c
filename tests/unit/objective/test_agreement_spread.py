"""Agreement weights differ as much as the mechanism is for: neither all alike nor all but a few gone.

The log-probs have the spread that was measured: on the embedded task the views' mean log-probs of an answer differ by
1e-5 to 0.15 nats, most by less than 0.001; with a model of 135M on ScienceQA by 0.03 to 0.34, half of them by 0.11.
"""

import pytest
import torch

from tests.fakes.objective_oracle import changed
from unisd_rl.config.load import load_recipe
from unisd_rl.config.objective import SequenceAgreement
from unisd_rl.objective.divergence import DivergenceTerm
from unisd_rl.objective.step import ScoringInputs
from unisd_rl.objective.unisd import step_terms

VIEWS, TOKENS = 3, 20


def embedded(generator, sequences):
    """Of an answer's tokens one or two are in doubt, in few answers: heavy tails over orders of magnitude."""
    doubt_ST = 10 ** (-6.0 + 5.0 * torch.rand(sequences, TOKENS, generator=generator, dtype=torch.float64) ** 3)
    noise_KST = doubt_ST * torch.randn(VIEWS, sequences, TOKENS, generator=generator, dtype=torch.float64)
    return (noise_KST - 0.05).reshape(VIEWS, -1)


def text(generator, sequences):
    """Every token differs by a tenth of a nat or two, and so does the whole answer by some hundredths."""
    shift_KS1 = 0.04 * torch.randn(VIEWS, sequences, 1, generator=generator, dtype=torch.float64)
    noise_KST = 0.15 * torch.randn(VIEWS, sequences, TOKENS, generator=generator, dtype=torch.float64)
    return (shift_KS1 + noise_KST - 1.0).reshape(VIEWS, -1)


def weights_of(recipe, logprobs, sequences, agreement=None):
    objective = load_recipe(recipe).objective_settings
    objective = changed(objective, contrastive=None, matching=None, clipping=None)
    objective = objective if agreement is None else changed(objective, agreement=agreement)
    auxiliary_KN = logprobs(torch.Generator().manual_seed(5), sequences)
    sequence_N = torch.arange(sequences).repeat_interleave(TOKENS)
    inputs = ScoringInputs(sequence_N, sequences, None, auxiliary_KN, None, None, None)
    terms = step_terms(inputs, objective, lambda values: values)
    (term,) = (term for term in terms.terms if isinstance(term, DivergenceTerm))
    return term.weights


@pytest.mark.parametrize("sequences", [8, 16, 64])
@pytest.mark.parametrize("logprobs", [embedded, text])
@pytest.mark.parametrize("recipe", ["agreement_sequence", "agreement_token", "unisd_star"])
def test_the_weights_of_a_recipe_spread_and_leave_most_of_the_batch(recipe, logprobs, sequences):
    """Bounded from both sides, by numbers that the definition of the scale does not fix."""
    found = weights_of(recipe, logprobs, sequences)
    assert 0.5 <= found.effective_sample_size <= 0.98
    assert 0.3 <= found.weight_mean <= 0.97
    assert 0.0 < found.weight_below_half <= 0.7


@pytest.mark.parametrize(("logprobs", "least"), [(embedded, 0.999), (text, 0.99)])
def test_sequence_weights_of_the_released_size_are_all_alike(logprobs, least):
    """Variance and gamma 1, as released: what the recipe had, and why it has a scale."""
    released = SequenceAgreement(statistic="variance", gamma=1.0)
    found = weights_of("agreement_sequence", logprobs, 64, released)
    assert found.weight_p05 > least
    assert found.effective_sample_size > 0.999


def test_sequence_weights_follow_the_scale_of_the_disagreement():
    """A hundredth of the disagreement everywhere gives the same weights."""
    wide = weights_of("agreement_sequence", text, 64)
    narrow = weights_of("agreement_sequence", lambda *sizes: text(*sizes) / 100, 64)
    assert narrow.disagreement_scale == pytest.approx(wide.disagreement_scale / 100)
    assert narrow.effective_sample_size == pytest.approx(wide.effective_sample_size)
    assert narrow.weight_mean == pytest.approx(wide.weight_mean)

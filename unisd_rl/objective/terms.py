"""One coefficient per token: what the gradient pass needs to know about the rest of the step, and nothing more.

The loss of the step is `sum_t main_t min(D_t, kappa) + contrastive_t hinge_t + feature_t err_t - likelihood_t s_t` over
all tokens t of all micro-batches on all ranks; weights, denominators and lambdas are inside the coefficients.
"""

from dataclasses import dataclass

from torch import Tensor

from unisd_rl.objective.step import Diagnostics


@dataclass(frozen=True)
class TokenTerms:
    """The coefficients of some tokens: float32 vectors without gradient."""

    main_N: Tensor
    """Factor of the clipped divergence."""
    contrastive_N: Tensor
    """Factor of the hinge; 0 for tokens of sequences without a negative view."""
    feature_N: Tensor
    """Factor of the feature error."""
    primary_N: Tensor
    """Log-prob of the realised token under the teacher's primary view; zeros where nothing reads it."""
    negative_N: Tensor
    """The same under the negative view; any finite number where there is none."""
    likelihood_N: Tensor
    """Factor of minus the realised token's log-prob under the student."""
    kappa: float | None
    """Clip threshold in nats; None clips nothing."""
    kept_N: Tensor | None
    """Which tokens keep their divergence's gradient (bool), decided once if kappa is a quantile; None: `D <= kappa`."""

    def slice(self, start: int, stop: int) -> "TokenTerms":
        """The coefficients of tokens `start .. stop - 1`."""
        part = slice(start, stop)
        return TokenTerms(
            self.main_N[part],
            self.contrastive_N[part],
            self.feature_N[part],
            self.primary_N[part],
            self.negative_N[part],
            self.likelihood_N[part],
            self.kappa,
            None if self.kept_N is None else self.kept_N[part],
        )


@dataclass(frozen=True)
class StepTerms(TokenTerms):
    """The coefficients of this rank's whole share of a step; `slice` gives those of a micro-batch."""

    weight_N: Tensor
    """Agreement weight of each token; ones where agreement is off."""
    diagnostics: Diagnostics
    """Global numbers of the step, the same on every rank and layout."""

"""Random logits and terms scored twice, by Triton's backend and by torch's; run as a program it prints what disagrees.

`TRITON_INTERPRET=1 python tests/fakes/triton_rows.py` needs no GPU. That variable must be set before triton is first
imported, so tests run this in a process of its own.
"""

import itertools
from dataclasses import replace

import torch

from tests.fakes.objective_oracle import PLAIN, changed
from tests.fakes.objective_terms import random_coefficients, token_terms
from unisd_rl.config.objective import DivergenceContrast, LogprobContrast
from unisd_rl.objective.kernels.head import Head
from unisd_rl.objective.kernels.torch_backend import Logits, TorchBackend
from unisd_rl.objective.term import measures_of

NONE = changed(PLAIN, alpha=None, chunk_tokens=64)
CONTRASTS = (
    None,
    LogprobContrast(weight=1.0, margin=1.0),
    DivergenceContrast(weight=1.0, margin=0.05, alpha=0.5),
    DivergenceContrast(weight=1.0, margin=0.05, alpha=0.0),
    DivergenceContrast(weight=1.0, margin=0.05, alpha=1.0),
)


def all_settings():
    """Every divergence, with and without a main term, with each contrast, with likelihood in every second."""
    for number, (alpha, contrast) in enumerate(itertools.product((None, 0.0, 0.3, 0.5, 1.0), CONTRASTS)):
        yield changed(NONE, alpha=alpha, contrastive=contrast, likelihood_weight=1.0 if number % 2 else None)


def problem(vocabulary, device, spread=3.0, tokens=5, distance=0.5):
    generator = torch.Generator().manual_seed(vocabulary)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    teacher_CV = spread * normal(tokens, vocabulary)
    logits = Logits(
        *(
            view.to(device)
            for view in (
                teacher_CV + distance * normal(tokens, vocabulary),
                teacher_CV,
                teacher_CV + distance * normal(tokens, vocabulary),
            )
        )
    )
    given = random_coefficients(tokens, generator, 0.1, device)
    targets_C = torch.randint(vocabulary, (tokens,), generator=generator).to(device)
    return logits, targets_C, given


def copied(logits):
    return Logits(logits.student_CV.clone(), logits.teacher_CV.clone(), logits.negative_CV.clone())


def disagreements(device, vocabularies=(7, 50), caps=(None, 4.0), gradient_type=torch.float32):
    """One line for every number of every case in which the two differ by more than float32 rounding."""
    from unisd_rl.objective.kernels.triton_backend import TritonBackend

    found = []
    for vocabulary, cap, settings in itertools.product(vocabularies, caps, all_settings()):
        weight_VH = torch.empty(vocabulary, 1, device=device)
        head = replace(Head(weight_VH, None, cap).at(settings.temperature, torch.float32), after=1.3)
        logits, targets_C, given = problem(vocabulary, device)
        terms = token_terms(settings, given)
        measures = measures_of(terms)
        expected_CV, gradient_CV = (torch.empty_like(logits.student_CV) for _ in range(2))
        gradient_CV = gradient_CV.to(gradient_type)
        plain = copied(logits)
        right = TorchBackend(head, head, measures, plain).score(plain, targets_C, terms, expected_CV)
        ours = TritonBackend(head, head, measures).score(logits, targets_C, terms, gradient_CV)
        pairs = [(str(measure), ours.divergences[measure], right.divergences[measure]) for measure in measures]
        pairs.append(("log-prob", ours.logprob_N, right.logprob_N))
        rounding = 3e-5 if gradient_type == torch.float32 else 1e-2
        for name, left, wanted in [*pairs, ("gradient", gradient_CV, expected_CV)]:
            tolerance = rounding if name == "gradient" else 3e-5
            if not torch.allclose(left.float(), wanted.float(), rtol=tolerance, atol=1e-5):
                gap = float((left.float() - wanted.float()).abs().max())
                found.append(f"{name} by {gap:.1e} with V {vocabulary}, cap {cap}, {settings}")
    return found


if __name__ == "__main__":
    print("\n".join(disagreements("cpu")) or "all agree")

"""Every number of a recipe names its source, and the source has that number.

What the paper says and what its authors' released code has are two lists: a number of the code is not the paper's.
"""

import re

import pytest

from unisd_rl.config.load import RECIPES, SETUPS

PAPER = {
    ("contexts.auxiliary", "type", '"retrieval"'), ("contexts.auxiliary", "type", '"induction"'),
    ("objective.agreement", "gamma", "1.0"), ("objective.agreement", "gamma", "0.1"),
    ("objective.agreement", "gamma", "0.01"), ("objective.contrastive", "signal", '"logprob"'),
    ("objective.ema", "every", "1"),
    ("model", "dtype", '"bfloat16"'), ("model.lora", "rank", "64"), ("model.lora", "alpha", "128"),
    ("model.lora", "dropout", "0.05"),
    ("rollout", "temperature", "0.7"), ("rollout", "max_prompt_tokens", "3072"),
    ("rollout", "max_completion_tokens", "1024"), ("rollout", "max_staleness", "0"),
    ("rollout.engine", "type", '"vllm"'),
    ("learner", "learning_rate", "2e-5"), ("learner", "warmup_fraction", "0.1"),
}  # fmt: skip
"""arXiv 2605.06597, its text: grids, optimiser, adapters, sampling, contexts of its table. It gives no alpha, kappa, K,
beta, weight, margin or batch of the runs in its tables."""
CODE = PAPER - {
    ("objective.agreement", "gamma", "1.0"), ("objective.agreement", "gamma", "0.1"), ("objective.ema", "every", "1"),
    ("contexts.auxiliary", "type", '"induction"'),
} | {
    ("contexts.auxiliary", "views", "3"), ("objective", "auxiliary_temperature", "1.0"),
    ("objective.divergence", "alpha", "0.0"),
    ("objective.agreement", "statistic", '"variance"'), ("objective.agreement", "gamma", "0.001"),
    ("objective.agreement", "scale_quantile", "0.95"), ("objective.agreement", "cap", "10.0"),
    ("objective.agreement", "floor", "0.01"),
    ("objective.contrastive", "weight", "0.1"), ("objective.contrastive", "margin", "0.5"),
    ("objective.contrastive", "weight", "0.01"), ("objective.contrastive", "margin", "0.1"),
    ("objective.matching", "weight", "0.1"), ("objective.matching", "weight", "0.01"),
    ("objective.ema", "beta", "0.9"), ("objective.ema", "beta", "0.98"), ("objective.ema", "every", "10"),
    ("contexts.negative", "type", '"generated"'), ("contexts.negative", "temperature", "0.7"),
    ("contexts.negative", "max_tokens", "1024"),
    ("objective.reference_reductions", "micro_batch_size", "2"), ("objective.clipping", "threshold", "10.0"),
    ("learner", "batch_size", "8"), ("learner", "batch_size", "16"), ("learner", "batch_size", "64"),
    ("learner", "weight_decay", "0.0"), ("learner", "max_grad_norm", "1.0"), ("learner", "warmup_from_zero", "true"),
    ("learner", "gradient_checkpointing", "true"),
}  # fmt: skip
"""Ahren09/UniSD, commit beef9a0: defaults of its trainer and of the script that ran its experiments."""
ALONE = ("match_representation", "objective.matching", "weight", "1.0")
"""Of the code too, but of this row alone: its trainer returns the features' loss as it is."""
BASELINES = ("SFT", "GKD", "SDFT", "OPSD", "SSD")
SECTIONS = ("objective", "contexts", "model.lora", "learner", "rollout")
PLACE = {
    "gpus_per_actor", "gpus_per_rank", "concurrency", "gpu_memory_utilization", "micro_batch_tokens", "rollout",
    "learner", "level", "policy", "gold", "base",
}  # fmt: skip
"""Where a run happens and how fast, and what the recipe is: no numbers that anyone reports."""
FILES = sorted([*RECIPES.glob("*.toml"), *SETUPS.glob("*.toml")])


def numbers(file):
    """(section, key, value, its comment) of what a source can have said."""
    section = ""
    for line in file.read_text().splitlines():
        if header := re.fullmatch(r"\[(.+)\]", line):
            section = header[1]
        elif found := re.match(r"(\w+) = (\S+)(?:  # (.*))?$", line):
            yield section, *found.groups()


def source_of(comment):
    """`paper`, `released code`, `ours`, a baseline; None where the comment names none."""
    for name in ("paper and released code", "paper", "released code", "ours", *BASELINES):
        if comment and comment.startswith(name):
            return name
    return None


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_number_names_a_source_that_has_it(file):
    wrong = []
    for section, key, value, comment in numbers(file):
        if not section.startswith(SECTIONS) or key in PLACE or (value.startswith('"') and not comment):
            continue
        source, fact = source_of(comment), (section, key, value)
        has = {"paper": PAPER, "released code": CODE, "paper and released code": PAPER & CODE}
        if source is None or (source in has and fact not in has[source] and (file.stem, *fact) != ALONE):
            wrong.append((*fact, comment))
    assert wrong == []

"""The recipe of the base model: every number that shapes it, and the hash that names its cache folder."""

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class BaseModelRecipe:
    """A Qwen2-type model of about a million parameters and its training from scratch; a step is one update."""

    seed: int = 0
    # Architecture. Heads are 32 wide: the smallest width that vLLM's CPU attention knows.
    vocabulary: int = 384
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    intermediate: int = 320
    context: int = 8192
    rope_theta: float = 10_000.0
    # Optimisation.
    steps: int = 280
    matrix_learning_rate: float = 0.01
    other_learning_rate: float = 3e-3
    warmup_steps: int = 30
    max_grad_norm: float = 1.0
    # Sequences a step reads of each kind (see `corpus.py`).
    plain: int = 24
    auxiliary: int = 16
    demonstrated: int = 16
    departing: int = 8
    question_first: int = 0
    # What makes it imperfect on purpose: so often do the solutions it learns from forget a carry or borrow. Above
    # one half, so that greedy decoding fails on these problems whatever the seed; below one, so that samples differ.
    forgotten_carry: float = 0.6

    def digest(self, corpus: str, tokenizer: str) -> str:
        """A name for what this recipe makes: it changes with any number, with the corpus and with the tokenizer.

        `corpus` is a rendered stretch of training text, so that another template or solution style is
        another model; `tokenizer` is the serialised tokenizer.
        """
        numbers = asdict(self)
        if not self.question_first:
            del numbers["question_first"]  # a model without that form has the name it had before there was one
        parts = json.dumps([numbers, corpus, tokenizer], sort_keys=True)
        return hashlib.blake2b(parts.encode("utf-8"), digest_size=10).hexdigest()

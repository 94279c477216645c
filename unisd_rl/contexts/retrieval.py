"""Nearest neighbours: the solved examples of similar problems, by the words or the meaning of their questions.

```
questions of the pool -> Similarity (BM25, or a sentence-embedding model) -> a score for every donor
                      -> from the highest on, those that do not leak the answer: view k reads the k-th
```

Equal scores, as of questions that share no word, come in a seeded order of their own for each problem.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from unisd_rl.contexts.auxiliary import DonorOrder
from unisd_rl.errors import UserError
from unisd_rl.models.load import load_encoder
from unisd_rl.seeds import derive_seed
from unisd_rl.types import Example

Scores = NDArray[np.float32]
_BATCH = 64
_LONGEST = 512  # tokens of a question that are embedded


class Similarity(Protocol):
    """How near a question is to each of the pool's."""

    def scores(self, question: str) -> Scores:
        """One number a donor, the higher the nearer. Shape [donors]."""
        ...


def nearest_first(pool: Sequence[Example], similarity: Similarity, seed: int) -> DonorOrder:
    """All of the pool by similarity to each problem; equal ones in a seeded order of the problem's own."""

    def ranked(example: Example) -> Iterator[Example]:
        draw = np.random.default_rng(derive_seed(seed, "ties", example.id))
        order = np.lexsort((draw.permutation(len(pool)), -similarity.scores(example.question)))
        return (pool[int(index)] for index in order)  # as a list, most of it for nobody, it would take 40 bytes a donor

    return ranked


class Among(Similarity):
    """Another similarity's scores of the donors at these indices alone."""

    def __init__(self, similarity: Similarity, indices: Sequence[int]) -> None:
        self._similarity, self._indices = similarity, list(indices)

    @override
    def scores(self, question: str) -> Scores:
        return self._similarity.scores(question)[self._indices]


class Bm25(Similarity):
    """Similarity by the words two questions share: Okapi BM25 (`bm25s`, its default k1 and b), without English stop
    words."""

    def __init__(self, questions: Sequence[str]) -> None:
        import bm25s

        self._tokenize = lambda texts: bm25s.tokenize(
            list(texts), token_pattern=r"(?u)\b\w+\b", show_progress=False, return_ids=False
        )
        tokens = self._tokenize(questions)
        self._size, self._index = len(questions), bm25s.BM25() if any(tokens) else None
        if self._index is not None:
            self._index.index(tokens, show_progress=False)

    @override
    def scores(self, question: str) -> Scores:
        (words,) = self._tokenize([question])
        if self._index is None or not (known := [word for word in words if word in self._index.vocab_dict]):
            return np.zeros(self._size, np.float32)
        return np.asarray(self._index.get_scores(known), np.float32)


class Embeddings(Similarity):
    """Similarity by meaning: the cosine of pooled last hidden states of a transformers encoder, the mean over a text's
    tokens or its first token, as its sentence-transformers folder says."""

    def __init__(self, questions: Sequence[str], model: str) -> None:
        """Embed the pool.

        Raises:
            UserError: transformers does not load the model, or it does more to its states than pooling them.
        """
        from transformers import AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
            self._model, self._reads_first = load_encoder(model), _pools_first_token(model)
        except Exception as error:  # transformers raises almost anything about a damaged folder
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(
                f"contexts.auxiliary.model = {model!r} does not load ({reason}); give the folder "
                "or the hub name of a sentence-embedding model, or leave it out for BM25"
            ) from None
        if self._tokenizer.pad_token is None:  # any token will do: what is padded is not read
            self._tokenizer.pad_token = self._tokenizer.eos_token or self._tokenizer.convert_ids_to_tokens(0)
        positions = getattr(self._model.config, "max_position_embeddings", None) or _LONGEST
        self._longest = min(_LONGEST, positions, self._tokenizer.model_max_length)
        self._indices = {question: index for index, question in enumerate(questions)}  # these are not embedded again
        self._pool = self._embed(questions)

    @override
    def scores(self, question: str) -> Scores:
        index = self._indices.get(question)
        embedded = self._embed([question])[0] if index is None else self._pool[index]
        return self._pool @ embedded

    def _embed(self, texts: Sequence[str]) -> Scores:
        """Unit vectors. Shape [texts, width]."""
        import torch
        from torch.nn.functional import normalize

        rows = []
        for start in range(0, len(texts), _BATCH):
            batch = self._tokenizer(
                list(texts[start : start + _BATCH]),
                padding=True,
                truncation=True,
                max_length=self._longest,
                return_tensors="pt",
            )
            with torch.inference_mode():
                hidden_BTH = self._model(**batch).last_hidden_state.float()
            mask_BT1 = batch["attention_mask"][..., None]
            pooled_BH = (hidden_BTH * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)
            if self._reads_first:
                pooled_BH = hidden_BTH[torch.arange(len(hidden_BTH)), mask_BT1[..., 0].argmax(1)]  # not of the padding
            rows.append(normalize(pooled_BH, dim=-1).numpy())
        return np.concatenate(rows)


def _pools_first_token(path: str) -> bool:
    """Whether a sentence-transformers folder takes a text's first token; False: the mean, which is for others too.

    Raises:
        ValueError: it pools otherwise, or computes more after that.
    """
    from transformers.utils import cached_file

    contents = [
        json.loads(Path(file).read_text(encoding="utf-8"))
        for name in ("modules.json", "1_Pooling/config.json")
        if (file := cached_file(path, name, _raise_exceptions_for_missing_entries=False)) is not None
    ]
    if len(contents) < 2:
        return False
    modules, pooling = contents
    steps = {module["type"].rpartition(".")[2] for module in modules} - {"Transformer", "Pooling", "Normalize"}
    modes = {name.removeprefix("pooling_mode_") for name, value in pooling.items() if value is True} - {
        "include_prompt"
    }
    if steps or modes not in ({"mean_tokens"}, {"cls_token"}):
        raise ValueError(f"it computes with {', '.join(sorted(steps or modes))}, and the mean or first token are known")
    return modes == {"cls_token"}

"""Training of the base model from scratch: a fixed number of steps on the corpus, the loss on completions only.

Deterministic for a seed, a machine and a number of threads. Two threads, about a minute: the optimiser of the matrices
is Muon, which halves the steps a small model needs.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from unisd_rl.base_model.corpus import Corpus, Sample
from unisd_rl.base_model.recipe import BaseModelRecipe
from unisd_rl.types import ReportProgress

if TYPE_CHECKING:
    from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

THREADS = 2


def train_model(recipe: BaseModelRecipe, tokenizer: "Qwen2Tokenizer", report: ReportProgress) -> "Qwen2ForCausalLM":
    """The trained model, in evaluation state; `report` gets the steps done, their number and the loss."""
    with _training_environment(recipe.seed):
        model = new_model(recipe, tokenizer).train()
        optimizers = _optimizers(recipe, model)
        schedules = [LambdaLR(optimizer, lambda step: _rate(recipe, step)) for optimizer in optimizers]
        corpus = Corpus(recipe)
        for step in range(recipe.steps):
            loss = _step_gradient(model, tokenizer, corpus.batch())
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
            for stepped in (*optimizers, *schedules):
                stepped.step()
            model.zero_grad()
            report(step + 1, recipe.steps, f"loss {loss:.3f}")
    return model.eval()


def new_model(recipe: BaseModelRecipe, tokenizer: "Qwen2Tokenizer") -> "Qwen2ForCausalLM":
    """The untrained model of a recipe, weights drawn from torch's global generator."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.context,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    return Qwen2ForCausalLM(config)


def _optimizers(recipe: BaseModelRecipe, model: "Qwen2ForCausalLM") -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices of the layers, AdamW for embedding, norms and biases."""
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    in_muon = set(matrices)
    others = [weight for weight in model.parameters() if weight not in in_muon]
    adamw = torch.optim.AdamW(others, lr=recipe.other_learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    return Muon(matrices, lr=recipe.matrix_learning_rate), adamw


def _step_gradient(model: "Qwen2ForCausalLM", tokenizer: "Qwen2Tokenizer", forms: tuple[list[Sample], ...]) -> float:
    """Add the gradient of the mean loss over all learned tokens of a step; one pass a form, of like lengths."""
    batches = [learning_batch(tokenizer, samples) for samples in forms if samples]
    tokens = sum(int(targets_N.numel()) for _, _, targets_N in batches)
    total = 0.0
    for ids_BT, predicts_BT, targets_N in batches:
        # Padding lies on the right, where causal attention never looks: no attention mask is needed.
        hidden_BTH = model.model(input_ids=ids_BT, use_cache=False).last_hidden_state
        logits_NV = model.lm_head(hidden_BTH[predicts_BT])
        loss = functional.cross_entropy(logits_NV, targets_N, reduction="sum") / tokens
        loss.backward()
        total += loss.item()
    return total


def learning_batch(
    tokenizer: "Qwen2Tokenizer", samples: list[Sample]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(ids [B, T], mask [B, T] of positions that predict a learned token, those tokens [N] in the same order)."""
    chats = [[{"role": turn.role, "content": turn.content} for turn in sample.chat] for sample in samples]
    prompts = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    pairs = list(zip(prompts, samples, strict=True))
    texts = [f"{prompt}{sample.begun}{sample.completion}{tokenizer.eos_token}" for prompt, sample in pairs]
    tokens = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    shape = len(texts), max(map(len, tokens["input_ids"]))
    ids_BT, learned_BT = torch.full(shape, tokenizer.pad_token_id), torch.zeros(shape, dtype=torch.bool)
    rows = zip(pairs, tokens["input_ids"], tokens["offset_mapping"], strict=True)
    for row, ((prompt, sample), ids, offsets) in enumerate(rows):
        spans = _learned_spans(prompt, sample)
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        learned_BT[row, : len(ids)] = torch.tensor([any(a <= start < b for a, b in spans) for start, _ in offsets])
    return ids_BT, learned_BT.roll(-1, dims=1), ids_BT[learned_BT]


def _learned_spans(prompt: str, sample: Sample) -> tuple[tuple[float, float], ...]:
    """Where the learned characters stand, from (included) to (excluded)."""
    answer = (len(prompt) + len(sample.begun), math.inf)
    shown = prompt.find(sample.shown) if sample.shown else len(prompt)
    return (shown, shown + len(sample.shown)), answer


def _rate(recipe: BaseModelRecipe, step: int) -> float:
    """Share of the peak learning rate: linear warm-up, then a cosine to zero."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / (recipe.steps - recipe.warmup_steps)
    return (1 + math.cos(math.pi * done)) / 2


@contextmanager
def _training_environment(seed: int) -> Iterator[None]:
    """Two threads and a seeded generator, both given back afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


# Odd polynomial a x + b x^3 + c x^5 that drives singular values towards 1 fast rather than exactly.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum: matrices [out, in] move by their orthogonalised momentum.

    After K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). Biases, norms and
    embeddings belong to another optimiser. torch's own Muon computes in bfloat16, which is ten times slower on
    processors without such instructions.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Move every matrix with a gradient. The update's root mean square is 0.2 lr, about that of an AdamW step."""
        for group in self.param_groups:
            for matrix in group["params"]:
                momentum = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                momentum.lerp_(matrix.grad, 1 - group["momentum"])
                ahead = matrix.grad.lerp(momentum, group["momentum"])
                matrix.add_(orthogonalised(ahead), alpha=-0.2 * group["lr"] * max(matrix.shape) ** 0.5)


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """U V^T, roughly, for a matrix [m, n] = U S V^T: all singular values between about 0.7 and 1.2 (float32)."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(_ROUNDS):
        gram = wide @ wide.T
        wide = _A * wide + (_B * gram + _C * gram @ gram) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T

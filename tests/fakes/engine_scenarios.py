"""What tests ask of an engine (run beside it), and the oracle: one plain transformers forward pass."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tests.fakes.snapshots import take_snapshot
from unisd_rl.types import Generation, PolicyVersion, Sampling

ENGINES = [
    pytest.param({"type": "transformers"}, id="transformers"),
    pytest.param({"type": "vllm", "kv_cache_gib": 0.1}, id="vllm", marks=pytest.mark.engine),
]
TEMPERATURE = 0.7
BUCKET_BYTES = 100_000  # several buckets even for a tiny model


def prompts(count: int, seed: int = 0) -> list[np.ndarray]:
    """Random byte tokens, 3 to 60 of them."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, rng.integers(3, 61)).astype(np.int32) for _ in range(count)]


def sampling(
    max_tokens: int,
    temperature: float = TEMPERATURE,
    top_p: float = 1.0,
    seed: int = 0,
    top_k: int | None = None,
    allowed: tuple[int, ...] | None = None,
) -> Sampling:
    return Sampling(temperature, top_p, max_tokens, seed, top_k, allowed=allowed)


async def generate_all(engine, tokens: Sequence[np.ndarray], each: Sequence[Sampling]) -> list[Generation]:
    """All prompts together."""
    return await asyncio.gather(*map(engine.generate, tokens, each))


async def outcomes(engine, tokens: Sequence[np.ndarray], each: Sequence[Sampling]) -> list[Generation | Exception]:
    """As `generate_all`, with exceptions in the places of answers."""
    return await asyncio.gather(*map(engine.generate, tokens, each), return_exceptions=True)


async def update(engine, manifest, buckets):
    """Replace the weights; returns the report and the version afterwards."""
    return await engine.receive(manifest, buckets), engine.version


async def sleep(engine) -> None:
    """Give a shared GPU's memory back."""
    await engine.sleep()


async def version(engine) -> PolicyVersion:
    return engine.version


async def straddle(engine, tokens, manifest, buckets) -> list[Generation]:
    """Replace the weights once a short answer that began with the long ones has ended."""
    short = asyncio.create_task(engine.generate(tokens[0], sampling(8)))
    long = asyncio.create_task(generate_all(engine, tokens, [sampling(150, seed=i) for i in range(len(tokens))]))
    await short
    await engine.receive(manifest, buckets)
    return await long


def snapshot_of(model: torch.nn.Module, number: int, lineage: int = 0):
    return take_snapshot(PolicyVersion(lineage, number), model.named_parameters(), BUCKET_BYTES)


def changed(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """The same architecture with every weight moved by a tenth of its spread, biases and norms included."""
    torch.manual_seed(seed)
    other = type(model)(model.config).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return other


@torch.no_grad()
def oracle_logprobs(
    model: torch.nn.Module, prompt: np.ndarray, generation: Generation, temperature: float = TEMPERATURE
) -> np.ndarray:
    """log softmax(logits / temperature) of every completion token, the whole text in one pass without a cache."""
    tokens = torch.tensor(generation.tokens).long()[:, None]
    return _distributions(model, prompt, generation, temperature).gather(-1, tokens)[:, 0].numpy()


@torch.no_grad()
def likeliest_logprobs(model: torch.nn.Module, prompt: np.ndarray, generation: Generation, count: int) -> np.ndarray:
    """[tokens, count]: the highest log-probs at each position, in falling order, at the default temperature."""
    return _distributions(model, prompt, generation, TEMPERATURE).topk(count).values.numpy()


def _distributions(
    model: torch.nn.Module, prompt: np.ndarray, generation: Generation, temperature: float
) -> torch.Tensor:
    tokens = torch.tensor(np.concatenate([prompt, generation.tokens])).long()
    return (model(tokens[None], use_cache=False).logits[0, len(prompt) - 1 : -1] / temperature).log_softmax(-1)


def gap(model: torch.nn.Module, prompt: np.ndarray, generation: Generation, where=slice(None)) -> float:
    """Largest difference in nats between engine and oracle over the tokens selected by `where`."""
    difference = np.abs(oracle_logprobs(model, prompt, generation) - generation.logprobs)[where]
    return float(difference.max(initial=0.0))

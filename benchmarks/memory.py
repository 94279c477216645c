"""The memory that `--dry-run` foretells of a learner rank, against what one takes, side by side.

`python -m benchmarks.memory --json FILE` makes models of random weights in the shapes of SmolLM2-135M, SmolLM2-360M and
Qwen2.5-0.5B, and takes each through two steps of UniSD* and a checkpoint, in a fresh process: all weights in float32,
and an adapter of rank 64. Prompts and answers are short, so that it is weights and not activations that are measured;
`--tokens` makes passes longer. What is measured is the highest resident set of the process less what it had when all
libraries were imported. The largest takes 14 GiB.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from transformers import LlamaConfig, PretrainedConfig, Qwen2Config

from benchmarks.layouts.one_rank import one_rank
from benchmarks.layouts.shapes import trained_tokenizer
from benchmarks.learner_step import gold_rollout
from benchmarks.output import finish, machine, result_file, show_table
from unisd_rl.config import Config
from unisd_rl.config.load import load_recipe
from unisd_rl.driver.memory import learner_parts
from unisd_rl.models.shape import shape_of
from unisd_rl.types import Rollout, TokenView, ViewKind

SHAPES: dict[str, Callable[[], PretrainedConfig]] = {
    "135M": lambda: _llama(576, 1536, 30, 9, 3),
    "360M": lambda: _llama(960, 2560, 32, 15, 5),
    "0.5B": lambda: Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
}
LORA = {"model": {"lora": {"rank": 64}}}
KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": LORA,
    "8 bit": {"learner": {"optimizer": "adamw_8bit"}},
    "offload": {"learner": {"offload_optimizer": True}},
}
PROCESS_TIMEOUT_S = 1800
STEPS = 2
SEQUENCES = 8


def _llama(hidden: int, intermediate: int, layers: int, heads: int, groups: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=49_152,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        tie_word_embeddings=True,
    )


def config_of(kind: str, tokens: int) -> Config:
    """UniSD* with passes of `tokens` tokens: two gradient passes a step, of two sequences each at least."""
    kinds = KINDS[kind]
    learner = {"batch_size": SEQUENCES, "micro_batch_tokens": tokens, **kinds.get("learner", {})}
    longest = 2 * tokens // SEQUENCES  # the student's sequences are two passes
    rollout = {"max_prompt_tokens": longest // 2, "max_completion_tokens": longest - longest // 2}
    return load_recipe("unisd_star", {**kinds, "learner": learner, "rollout": rollout})


def rollouts_of(config: Config, vocabulary: int) -> list[Rollout]:
    """All as long as the limits allow."""
    random, rollout = np.random.default_rng(0), config.rollout

    def tokens(count: int) -> np.ndarray:
        return random.integers(0, vocabulary, count).astype(np.int32)

    kinds = (ViewKind.PRIMARY, *[ViewKind.AUXILIARY] * 3, ViewKind.NEGATIVE)
    prompt, completion = rollout.max_prompt_tokens, rollout.max_completion_tokens
    return [
        gold_rollout(
            number,
            str(number),
            tokens(prompt),
            tuple(TokenView(view, tokens(prompt)) for view in kinds),
            tokens(completion),
        )
        for number in range(SEQUENCES)
    ]


def measure(model: Path, kind: str, tokens: int) -> dict[str, float]:
    """Peaks of this process above its imports, in bytes, which must be a fresh one: of each phase, and of all."""
    from learner.learner import Learner
    from learner.sharding import init_process_group
    from unisd_rl.storage.checkpoints import RunState

    device = init_process_group(gpus=False, threads=0, timeout_s=PROCESS_TIMEOUT_S)
    if kind == "lora":
        import unisd_rl.models.peft_import  # noqa: F401
    if kind == "8 bit":
        import bitsandbytes  # noqa: F401
    config = config_of(kind, tokens)
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    rollouts = rollouts_of(config, vocabulary)
    imported, peaks = _resident("VmRSS"), {}

    def peak_of(phase: str, run: Callable[[], Any]) -> Any:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from now
        result = run()
        peaks[phase] = _resident("VmHWM") - imported
        return result

    learner = peak_of("load", lambda: Learner(config, model, device))
    for number in range(STEPS):
        result = peak_of(f"gradient {number}", lambda number=number: learner.forward_backward(rollouts, number))
        peak_of(f"update {number}", lambda result=result: learner.optim_step(result))
    with tempfile.TemporaryDirectory() as folder:
        state = RunState(0, STEPS, 0, ())
        peak_of("checkpoint", lambda: learner.save(Path(folder) / "checkpoint", write=True, run_state=state))
    return {**peaks, "peak": max(peaks.values())}


def _resident(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024.0 * int(line.split()[1])
    raise SystemExit(f"/proc/self/status tells no {field} here")


def in_fresh_process(model: Path, kind: str, tokens: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.memory", "--one", str(model), kind, "--tokens", str(tokens)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PROCESS_TIMEOUT_S,
        env={**os.environ, **one_rank()},
    )
    if done.returncode:
        raise SystemExit(f"{kind} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def save_model(config: PretrainedConfig, folder: Path) -> None:
    """Random weights, made in a process of their own so that this one stays small."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    trained_tokenizer(["a model folder has a tokenizer"]).save_pretrained(folder)


def rows_of(sizes: list[str], kinds: list[str], tokens: int) -> list[dict[str, Any]]:
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            save_model(SHAPES[size](), Path(folder))
            for kind in kinds:
                config = config_of(kind, tokens)
                parts = {
                    part.name: part.nbytes for part in learner_parts(config, shape_of(SHAPES[size](), config.model))
                }
                found = in_fresh_process(Path(folder), kind, tokens)
                row = {"size": size, "kind": kind, "tokens": tokens, "foretold": sum(parts.values()), "parts": parts}
                rows.append({**row, **found})
                show_rows(rows[-1:])
    return rows


def show_rows(rows: list[dict[str, Any]]) -> None:
    gib = float(1 << 30)
    lines = [
        (
            row["size"],
            row["kind"],
            row["tokens"],
            row["foretold"] / gib,
            row["peak"] / gib,
            f"{row['foretold'] / row['peak'] - 1:+.0%}",
            max((name for name in row if name.split()[0] in ("load", "gradient", "update", "checkpoint")), key=row.get),
            ", ".join(f"{name} {nbytes / gib:.2f}" for name, nbytes in row["parts"].items()),
        )
        for row in rows
    ]
    columns = (
        "model",
        "trained",
        "tokens a pass",
        "foretold GiB",
        "measured GiB",
        "apart",
        "highest in",
        "foretold of",
    )
    show_table("a learner rank, above the libraries", columns, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=result_file, help="write machine, rows and ratios to this file")
    parser.add_argument("--sizes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["full", "lora"])
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a gradient pass (default 256)")
    parser.add_argument("--quick", action="store_true", help="the smallest size, all weights")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        model, kind = arguments.one
        print(json.dumps(measure(Path(model), kind, arguments.tokens)))
        return
    if arguments.quick:
        arguments.sizes, arguments.kinds = list(SHAPES)[:1], ["full"]
    found_on = machine()
    rows = rows_of(arguments.sizes, arguments.kinds, arguments.tokens)
    with suppress(ValueError):
        show_rows(rows)
    ratios = {f"memory_foretold.{row['size']}.{row['kind']}": row["foretold"] / row["peak"] for row in rows}
    finish(found_on, rows, ratios, arguments.json)


if __name__ == "__main__":
    main()

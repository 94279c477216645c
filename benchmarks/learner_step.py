"""The whole learner step of UniSD*, ours against a plain one that runs every view densely, side by side in one run.

`python -m benchmarks.learner_step --json FILE` trains a tiny model with a large vocabulary for a few steps: score the
student, the primary view, three auxiliary views and the negative one, weigh, clip, take the gradient and AdamW's step,
average the teacher. `dense` is what one writes first: all sequences of a view in one padded batch, logits and
log-softmax of the whole vocabulary at every completion token, autograd, AdamW, a loop for the average.

Every contender is a fresh process, since peak memory (ru_maxrss) never falls, and they take turns. Peak memory is what
the steps add to the process that is ready for them: gradients and AdamW's moments are in it on both sides. Both must
find the same losses in every step (1e-4), so that they do the same work.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.layouts.one_rank import one_rank
from benchmarks.layouts.shapes import trained_tokenizer
from benchmarks.output import finish, machine, result_file, show_table
from learner.schedule import learning_rate
from unisd_rl.config import Config
from unisd_rl.types import Rollout, Source, Tokens, TokenView, ViewKind

KINDS = ("ours", "dense")
VIEWS = 3
STEPS = 3
LOSS_TOLERANCE = 1e-4
PROCESS_TIMEOUT_S = 900

Step = Callable[[int], float]
"""Takes step `n` and returns its loss."""


@dataclass(frozen=True)
class Size:
    sequences: int
    completion: int
    """Longest completion; the shortest is a third."""
    context: int
    """Longest context of a view; the shortest is a third, and the student's prompts are half of it."""
    hidden: int
    layers: int
    vocabulary: int
    threads: int


@dataclass(frozen=True)
class Row:
    kind: str
    tokens_per_s: float
    """Completion tokens trained on per second: the median over the steps after the first."""
    processor_s: float
    """Processor time of such a step, all threads: unlike the wall clock hardly touched by what else runs."""
    peak_mib: float
    losses: tuple[float, ...]


def step_rows(quick: bool, threads: int = os.cpu_count() or 1) -> tuple[list[dict], dict[str, float]]:
    """Rows and ratios: `step_tokens_vs_dense` (higher is better) and `step_memory_vs_dense` (lower is better)."""
    sequences, completion, context = (16, 32, 96) if quick else (24, 40, 120)
    size = Size(sequences, completion, context, 128, 2, 151_936, threads)
    found: dict[str, list[Row]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        model_of(size).save_pretrained(folder)
        trained_tokenizer(["a model folder has a tokenizer"]).save_pretrained(folder)
        for _ in range(1 if quick else 3):
            for kind in KINDS:
                found[kind].append(measure_in_fresh_process(kind, size, Path(folder)))
    rows = {kind: median_of(found[kind]) for kind in KINDS}
    ours, dense = rows["ours"], rows["dense"]
    if not np.allclose(ours.losses, dense.losses, rtol=LOSS_TOLERANCE, atol=0.0):
        raise SystemExit(f"the two do not minimise the same: ours found {ours.losses}, dense {dense.losses}")
    ratios = {
        "step_tokens_vs_dense": ours.tokens_per_s / dense.tokens_per_s,
        "step_memory_vs_dense": ours.peak_mib / dense.peak_mib,
    }
    return [{"benchmark": "learner_step", **asdict(row), **asdict(size)} for row in rows.values()], ratios


def median_of(rows: list[Row]) -> Row:
    names = ("tokens_per_s", "processor_s", "peak_mib")
    return Row(rows[0].kind, *(statistics.median(getattr(row, name) for row in rows) for name in names), rows[0].losses)


def measure(kind: str, size: Size, model: Path) -> Row:
    """A few steps in this process, which must be a fresh one."""
    torch.set_num_threads(size.threads)
    rollouts = rollouts_of(size)
    step = {"ours": our_step, "dense": dense_step}[kind](model, rollouts)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    losses, wall_s, processor_s = [], [], []
    for number in range(STEPS):
        wall, processor = time.perf_counter(), time.process_time()
        losses.append(step(number))
        wall_s.append(time.perf_counter() - wall)
        processor_s.append(time.process_time() - processor)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    tokens = sum(len(rollout.completion_tokens) for rollout in rollouts)
    wall, processor = statistics.median(wall_s[1:]), statistics.median(processor_s[1:])
    return Row(kind, tokens / wall, processor, peak_kib / 1024, tuple(losses))


def model_of(size: Size) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=3 * size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.15,  # so that views differ: logits of a few nats
    )
    return Qwen2ForCausalLM(config)


def rollouts_of(size: Size) -> list[Rollout]:
    random = np.random.default_rng(0)

    def tokens(longest: int) -> np.ndarray:
        return random.integers(0, size.vocabulary, random.integers(longest // 3, longest + 1)).astype(np.int32)

    kinds = (ViewKind.PRIMARY, *[ViewKind.AUXILIARY] * VIEWS, ViewKind.NEGATIVE)
    return [
        gold_rollout(
            number,
            str(number),
            tokens(size.context // 2),
            tuple(TokenView(kind, tokens(size.context)) for kind in kinds),
            tokens(size.completion),
        )
        for number in range(size.sequences)
    ]


def gold_rollout(number: int, name: str, prompt: Tokens, views: tuple[TokenView, ...], completion: Tokens) -> Rollout:
    """`Source.GOLD`: of no policy version, so that staleness and log-probs of an engine are not looked at."""
    return Rollout(
        number=number,
        id=name,
        source=Source.GOLD,
        prompt_tokens=prompt,
        views=views,
        completion_tokens=completion,
        logprobs=None,
        lineages=None,
        versions=None,
        finish_reason="stop",
        seed=number,
        actor="",
        started_s=0.0,
        finished_s=0.0,
    )


def config_of() -> Config:
    """UniSD* as in the default recipe."""
    return Config.model_validate(
        {
            "contexts": {"auxiliary": {"views": VIEWS}, "negative": {}},
            "objective": {
                "divergence": {"alpha": 0.5},
                "clipping": {"quantile": 0.9},
                "agreement": {"level": "token"},
                "contrastive": {"signal": "logprob"},
                "matching": {},
                "ema": {"beta": 0.98},
            },
        }
    )


def our_step(model: Path, rollouts: list[Rollout]) -> Step:
    from learner.learner import Learner
    from learner.sharding import init_process_group

    learner = Learner(config_of(), model, init_process_group(gpus=False, threads=0, timeout_s=PROCESS_TIMEOUT_S))

    def step(number: int) -> float:
        return learner.optim_step(learner.forward_backward(rollouts, number)).loss.loss

    return step


def dense_step(model: Path, rollouts: list[Rollout]) -> Step:
    """Contexts are padded on the left and completions on the right, so that logits of a batch are one slice."""
    config = config_of()
    student, teacher = (Qwen2ForCausalLM.from_pretrained(model) for _ in range(2))
    optimiser = torch.optim.AdamW(student.parameters(), betas=(0.9, 0.999), weight_decay=0.0)
    completions = [rollout.completion_tokens for rollout in rollouts]
    targets_BT, mask_BT = aligned(completions, left=False)

    def batch(contexts: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        context_BC, real_BC = aligned(contexts, left=True)
        return torch.cat([context_BC, targets_BT], 1), torch.cat([real_BC, mask_BT], 1)

    prompts = batch([rollout.prompt_tokens for rollout in rollouts])
    views = [batch([rollout.views[index].tokens for rollout in rollouts]) for index in range(VIEWS + 2)]

    def read(weights: Qwen2ForCausalLM, ids_BL: Tensor, real_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probs [B, T, V] and final hidden states [B, T, H]."""
        positions_BL = (real_BL.cumsum(1) - 1).clamp(min=0)
        out = weights.model(input_ids=ids_BL, attention_mask=real_BL, position_ids=positions_BL, use_cache=False)
        hidden_BTH = out.last_hidden_state[:, -targets_BT.shape[1] - 1 : -1]
        return torch.log_softmax(weights.lm_head(hidden_BTH) / config.temperature, -1), hidden_BTH

    def realised(logprob_BTV: Tensor) -> Tensor:
        return logprob_BTV.gather(-1, targets_BT[..., None])[..., 0]

    def step(number: int) -> float:
        with torch.no_grad():
            primary_BTV, teacher_BTH = read(teacher, *views[0])
            auxiliary_KBT = torch.stack([realised(read(teacher, *view)[0]) for view in views[1:-1]])
            negative_BT = realised(read(teacher, *views[-1])[0])
        student_BTV, student_BTH = read(student, *prompts)
        divergence_BT = jensen_shannon(student_BTV, primary_BTV, config.objective.divergence.alpha)
        error_BT = (student_BTH - teacher_BTH).square().mean(-1)
        realised_BT = (realised(student_BTV), realised(primary_BTV), negative_BT)
        loss = composed(config, mask_BT.bool(), divergence_BT, auxiliary_KBT, realised_BT, error_BT)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), config.learner.max_grad_norm)
        learner = config.learner
        rate = learning_rate(number, config.run.total_steps, learner.learning_rate, learner.warmup_fraction)
        optimiser.param_groups[0]["lr"] = rate
        optimiser.step()
        optimiser.zero_grad()
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                slow.lerp_(fast, 1.0 - config.objective.ema.beta)
        return float(loss.detach())

    return step


def jensen_shannon(student_BTV: Tensor, teacher_BTV: Tensor, alpha: float) -> Tensor:
    mixture_BTV = torch.logaddexp(student_BTV + np.log(1 - alpha), teacher_BTV + np.log(alpha))
    from_teacher_BT = (teacher_BTV.exp() * (teacher_BTV - mixture_BTV)).sum(-1)
    return alpha * from_teacher_BT + (1 - alpha) * (student_BTV.exp() * (student_BTV - mixture_BTV)).sum(-1)


def composed(
    config: Config,
    mask_BT: Tensor,
    divergence_BT: Tensor,
    auxiliary_KBT: Tensor,
    realised_BT: tuple[Tensor, Tensor, Tensor],
    error_BT: Tensor,
) -> Tensor:
    """The five mechanisms on masked [B, T] tensors."""
    settings = config.objective
    kappa = divergence_BT.detach()[mask_BT].quantile(settings.clipping.quantile)
    clipped_BT = torch.where(divergence_BT <= kappa, divergence_BT, kappa)
    apart_BT = auxiliary_KBT.var(0, correction=0)
    scale = apart_BT[mask_BT].quantile(settings.agreement.scale_quantile).clamp(min=1e-6)
    unit_BT = (apart_BT / scale).clamp(max=settings.agreement.cap)
    weight_BT = (1 / (1 + settings.agreement.gamma * unit_BT)).clamp(min=settings.agreement.floor) * mask_BT
    student_BT, primary_BT, negative_BT = realised_BT
    gap_BT = (student_BT - primary_BT).abs() - (student_BT - negative_BT).abs()
    hinge_BT = (settings.contrastive.margin + gap_BT).clamp(min=0)
    length_B = mask_BT.sum(1)
    return (
        ((weight_BT * clipped_BT).sum(1) / weight_BT.sum(1)).mean()
        + settings.contrastive.weight * ((hinge_BT * mask_BT).sum(1) / length_B).mean()
        + settings.matching.weight * ((error_BT * mask_BT).sum(1) / length_B).mean()
    )


def aligned(rows: list[np.ndarray], left: bool) -> tuple[Tensor, Tensor]:
    """Rows in one tensor, and 1 where it is real (long)."""
    width = max(len(row) for row in rows)
    ids, real = torch.zeros(2, len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        part = slice(width - len(row), width) if left else slice(0, len(row))
        ids[index, part], real[index, part] = torch.from_numpy(row.astype(np.int64)), 1
    return ids, real


def measure_in_fresh_process(kind: str, size: Size, model: Path) -> Row:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.learner_step", "--one", kind, str(model), json.dumps(asdict(size))],
        capture_output=True,
        text=True,
        timeout=PROCESS_TIMEOUT_S,
        env={**os.environ, **one_rank(), "OMP_NUM_THREADS": str(size.threads)},
    )
    if done.returncode:
        raise SystemExit(f"{kind} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return Row(**json.loads(done.stdout.splitlines()[-1]))


def show_step(rows: list[dict]) -> None:
    columns = ("kind", "tokens/s", "processor s", "peak MiB of the steps", "last loss")
    names = ("kind", "tokens_per_s", "processor_s", "peak_mib")
    lines = [(*(row[name] for name in names), f"{row['losses'][-1]:.6f}") for row in rows]
    show_table("one learner step of UniSD*, K = 3", columns, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=result_file, help="write machine, rows and ratios to this file")
    parser.add_argument("--quick", action="store_true", help="a small size, once")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        kind, model, size = arguments.one
        print(json.dumps(asdict(measure(kind, Size(**json.loads(size)), Path(model)))))
        return
    found_on = machine()
    rows, ratios = step_rows(arguments.quick, arguments.threads)
    show_step(rows)
    finish(found_on, rows, ratios, arguments.json)


if __name__ == "__main__":
    main()

"""How much memory the processes of a run need, from its configuration and the shape of its model.

Arithmetic alone: `--dry-run` prints it before anything is started, and `benchmarks/memory.py` compares it with what
processes take. What importing the libraries takes, about 0.6 GiB a process, comes on top.

A learner rank holds weights, teacher and optimiser all the time; on top comes the largest of what it needs in turn:

```
 score      hidden states of the widest layer, of `scoring_tokens` tokens
 gradient   gradients, what autograd keeps of `micro_batch_tokens` tokens, the head's gradient, chunks of logits
 update     gradients, and with moments of 8 bits temporaries of the tensor in turn
 save       a copy of at most 512 MiB of the training state
```
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unisd_rl.config import Config
from unisd_rl.models.shape import ModelShape
from unisd_rl.types import ViewKind

_GIB = 1 << 30
BYTES = {"float32": 4, "bfloat16": 2}
"""Of a number of `model.dtype`."""
_FLOAT32 = 4
_MOMENTS = 2.0 * _FLOAT32
_EIGHT_BIT_MOMENTS = 2.0 + 2.0 * _FLOAT32 / 256  # 8 bits each, and a float32 scale for 256 of them
_BUCKET_ELEMENTS = 500_000_000  # DeepSpeed's buckets for gradients that are summed over ranks
_ARCHIVE_BYTES = 1 << 28
# What a pass frees stays with malloc, and others take parts of it, so that the next pass's arrays no longer fit: up to
# as much again is resident on a CPU. Measured with and without a mapping for each array, docs/results/memory.md.
_FREED_AND_RESIDENT = 2
_SNAPSHOTS = 3  # the newest, the next as the learner puts it, and the store's own copy of that


@dataclass(frozen=True, slots=True)
class Part:
    """What a process keeps in memory, of one kind."""

    name: str
    nbytes: float
    on_gpu: bool = False


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """The memory of each of `count` processes of one kind."""

    process: str
    count: int
    parts: tuple[Part, ...]

    @property
    def nbytes(self) -> float:
        """Of one process, GPU memory included."""
        return sum(part.nbytes for part in self.parts)

    def describe(self) -> str:
        """E.g. `1 x learner rank: 2.0 GiB of memory (weights 0.5, optimizer 1.0, gradients 0.5)`."""
        places = (("memory", False), ("GPU memory", True))
        lines = [_described(name, [part for part in self.parts if part.on_gpu is on_gpu]) for name, on_gpu in places]
        return f"{self.count} x {self.process}: " + ", ".join(line for line in lines if line)


def _described(name: str, parts: Sequence[Part]) -> str:
    if not parts:
        return ""
    listed = ", ".join(f"{part.name} {_gib(part.nbytes)}" for part in parts)
    return f"{_gib(sum(part.nbytes for part in parts))} GiB of {name} ({listed})"


def _gib(nbytes: float) -> str:
    return f"{nbytes / _GIB:.2f}" if nbytes < 9.995 * _GIB else f"{nbytes / _GIB:.1f}"


def run_memory(config: Config, shape: ModelShape) -> tuple[ProcessMemory, ...]:
    """What each process of a run takes at its peak, and Ray's object store."""
    return (
        ProcessMemory("rollout actor", config.rollout.actors_at_start, tuple(actor_parts(config, shape))),
        ProcessMemory("learner rank", config.learner.ranks, tuple(learner_parts(config, shape))),
        ProcessMemory("object store", 1, (Part("snapshots of the weights", _SNAPSHOTS * published(config, shape)),)),
    )


def describe_memory(config: Config, shape: ModelShape, available: float | None) -> Iterator[str]:
    """Lines for a person; `available` bytes of this machine, where all processes will run on it."""
    processes = run_memory(config, shape)
    yield "memory at the peak, beside about 0.6 GiB for the libraries of each process:"
    yield from (f"  {process.describe()}" for process in processes)
    in_memory = sum(part.nbytes * each.count for each in processes for part in each.parts if not part.on_gpu)
    if available is not None:
        remedy = "" if in_memory <= available else ": lower rollout.actors or learner.micro_batch_tokens"
        yield f"  in all {_gib(in_memory)} GiB; {_gib(available)} GiB are available on this machine{remedy}"
    if config.turns_on_gpu and (share := config.rollout.engine.gpu_share) is not None:
        stays = sum(part.nbytes for part in learner_states(config, shape) if part.on_gpu)
        peak = sum(part.nbytes for part in learner_parts(config, shape) if part.on_gpu)
        yield (
            f"  on one GPU: {_gib(peak)} GiB in the learner's turn; {_gib(stays)} GiB of them stay in the engine's, "
            f"beside its {share:.0%} of the GPU, which needs {_gib(max(peak, stays / (1 - share)))} GiB, and room for "
            "libraries and CUDA graphs"
        )


def published(config: Config, shape: ModelShape) -> float:
    """Bytes of one version of the weights as they travel: the model, or the adapter."""
    elements = shape.parameters if config.model.lora is None else shape.trained
    return 0.0 if config.weights.pushed else elements * BYTES[config.model.dtype]


def actor_parts(config: Config, shape: ModelShape) -> Iterator[Part]:
    """A rollout actor with its engine."""
    rollout, width = config.rollout, BYTES[config.model.dtype]
    engine, weights = rollout.engine, shape.parameters * width
    if rollout.on_gpu and engine.gpu_share is not None:
        gpus = max(rollout.gpus_per_actor, 1.0) * engine.weight_shards  # vLLM's share is of a whole one
        filled = f"{engine.gpu_share:.0%} of {gpus:g} GPU"
        yield Part(f"weights (keys and values fill {filled})", weights, on_gpu=True)
        return
    yield Part("weights", weights, rollout.on_gpu)
    rows = max(rollout.concurrency, rollout.group_rows or 0)
    needed = rows * rollout.longest_request * shape.keys_and_values * width
    cache = needed if engine.cache_gib is None else engine.cache_gib * _GIB
    yield Part("keys and values", cache, rollout.on_gpu)
    if not rollout.on_gpu:
        yield Part("a version under way", published(config, shape))


def learner_states(config: Config, shape: ModelShape) -> Iterator[Part]:
    """What a learner rank holds all the time."""
    gpu, adapted = bool(config.learner.gpus_per_rank), config.model.lora is not None
    width, sharded = BYTES[config.model.dtype], 1 / config.learner.ranks if config.zero_stage == 3 else 1.0
    factors = shape.trained if adapted else 0
    yield Part("weights", (shape.parameters + factors) * width * sharded, gpu)
    if config.reads_teacher:
        followed = shape.trained if adapted else shape.parameters
        average = 0 if width == _FLOAT32 else _FLOAT32
        yield Part("teacher", followed * (width + average) * sharded, gpu)
    yield Part("optimizer", optimizer_bytes(config, shape), gpu and not config.learner.offload_optimizer)


def learner_parts(config: Config, shape: ModelShape) -> Iterator[Part]:
    """A learner rank at its peak."""
    gpu = bool(config.learner.gpus_per_rank)
    yield from learner_states(config, shape)
    phases = {
        "scoring": (0.0, scoring_bytes(config, shape)),
        "backward pass": (gradient_bytes(config, shape), backward_bytes(config, shape)),
        "optimizer step": (gradient_bytes(config, shape), update_bytes(config, shape)),
        "checkpoint": (0.0, save_bytes(shape)),
    }
    if not config.reads_teacher:
        del phases["scoring"]
    if gpu:
        del phases["checkpoint"]  # in the memory of the machine
    peak = max(phases, key=lambda phase: sum(phases[phase]))
    gradients, working = phases[peak]
    if gradients:
        yield Part("gradients", gradients, gpu)
    yield Part(peak, working, gpu)


def optimizer_bytes(config: Config, shape: ModelShape) -> float:
    """Moments, and float32 masters where the weights themselves are none; one part a rank from ZeRO 1 on."""
    stage, learner = config.zero_stage, config.learner
    parts = learner.ranks if stage else 1
    moments = _EIGHT_BIT_MOMENTS if learner.eight_bit_moments else _MOMENTS
    masters = _FLOAT32 if stage else 0
    # Offloaded, DeepSpeed keeps the gradients of the part there too, and the weights on their way back.
    beside = _FLOAT32 + BYTES[config.model.dtype] if learner.offload_optimizer else 0
    return shape.trained / parts * (moments + masters + beside)


def gradient_bytes(config: Config, shape: ModelShape) -> float:
    """Float32 sums of the gradients of all passes, and DeepSpeed's bucket of what travels between ranks (stage 0 on one
    rank has none)."""
    stage, learner = config.zero_stage, config.learner
    kept = 1 / learner.ranks if stage >= 2 else 1.0
    bucket = min(shape.trained, _BUCKET_ELEMENTS) * BYTES[config.model.dtype] if stage or learner.ranks > 1 else 0
    return shape.trained * _FLOAT32 * kept + bucket


def backward_bytes(config: Config, shape: ModelShape) -> float:
    """Of the pass with gradient: what is kept, logits in chunks, and the head's gradient until it is added up."""
    tokens = _pass_tokens(config, config.learner.micro_batch_tokens, views=1)
    width, kept = BYTES[config.model.dtype], shape.kept_bytes
    if config.learner.gradient_checkpointing:  # the input of each layer, and all of one
        kept = shape.layers * shape.hidden * width + shape.kept_bytes // shape.layers
    if not config.learner.gpus_per_rank:
        kept *= _FREED_AND_RESIDENT
    head = 0 if config.model.lora is not None else _FLOAT32 * shape.head
    states = _FLOAT32 * shape.hidden * tokens
    layer = 3 * shape.widest_bytes * tokens  # gradients of one layer: those of its widest tensors exist at one time
    buffers = chunk_bytes(config, shape, tokens)
    # At the end of the pass the embedding's gradient lies beside the head's.
    return max(kept * tokens + head + max(buffers + states, layer), 2 * head)


def chunk_bytes(config: Config, shape: ModelShape, tokens: int) -> float:
    """Float32 logits of `chunk_tokens` tokens: the student's, and those of each view that is read whole."""
    states = config.objective_settings.needs.states
    views = 1 + (ViewKind.PRIMARY in states) + (ViewKind.NEGATIVE in states)
    return views * min(config.learner.chunk_tokens, tokens) * shape.vocabulary * _FLOAT32


def scoring_bytes(config: Config, shape: ModelShape) -> float:
    """Of a pass without gradient: a layer's widest tensors and the residual stream; logits in chunks."""
    contexts = config.contexts_read
    views = 1 + (contexts.auxiliary.views if contexts.auxiliary else 0) + bool(contexts.negative)
    tokens = _pass_tokens(config, config.learner.scoring_budget, views)
    layer = (4 * shape.widest_bytes + 3 * shape.hidden * BYTES[config.model.dtype]) * tokens
    logits = min(config.learner.chunk_tokens, tokens) * shape.vocabulary * _FLOAT32
    return max(layer, logits + shape.hidden * _FLOAT32 * tokens)


def update_bytes(config: Config, shape: ModelShape) -> float:
    """Temporaries of moments of 8 bits on a CPU: of one tensor, or of the rank's flat part of all from ZeRO 1 on.
    Torch's fused AdamW has none."""
    if not config.learner.eight_bit_moments or config.learner.gpus_per_rank:
        return 0.0
    return 6.0 * _FLOAT32 * (shape.trained / config.learner.ranks if config.zero_stage else shape.largest)


def save_bytes(shape: ModelShape) -> float:
    """Of a checkpoint: two files of the training state, the one that was written and the next. Weights are written
    one by one."""
    return 2.0 * min(_ARCHIVE_BYTES, 3 * _FLOAT32 * shape.trained)


def _pass_tokens(config: Config, budget: int, views: int) -> int:
    """Tokens of the largest pass: the budget or one longest sequence, and no more than a batch has."""
    longest = config.rollout.longest_request
    completions = -(-config.learner.batch_size // config.learner.ranks)
    return min(max(budget, longest), completions * views * longest)

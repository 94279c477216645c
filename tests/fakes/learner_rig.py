"""Tiny models, rollouts and rank processes for the learner's tests.

A job is a pickled list of `Case`s in FOLDER/job.pickle; rank 0 writes what each case found to FOLDER/<name>.pt. To
import DeepSpeed takes seconds, so ranks are forks of one process that has done this and nothing else.
"""

import functools
import importlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unisd_rl.config import Config
from unisd_rl.storage.checkpoints import RunState
from unisd_rl.types import Rollout, Source, TokenView, ViewKind

VOCABULARY = 64
REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT_S = 240


@dataclass(frozen=True)
class Case:
    """One learner, built, taken through `steps` steps, and thrown away."""

    name: str
    config: Config
    model: Path
    shards: tuple[tuple[Rollout, ...], ...]
    steps: int = 2
    save: Path | None = None
    resume: Path | None = None
    """A checkpoint to go on from ..."""
    first: int = 0
    """... and the step it goes on with."""


def make_model(folder: Path, tied: bool) -> Path:
    """A random Qwen2 of two layers with a word-level tokenizer."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(3)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        initializer_range=0.3,
        max_position_embeddings=256,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(WordLevel({str(index): index for index in range(VOCABULARY)}, unk_token="0"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="0").save_pretrained(folder)
    return folder


def make_rollouts(count: int = 12, views: int = 3, seed: int = 0) -> tuple[Rollout, ...]:
    """Prompts and completions of unequal lengths; every fourth has no negative view, one has no token."""
    random = np.random.default_rng(seed)

    def tokens(low: int, high: int) -> np.ndarray:
        return random.integers(0, VOCABULARY, random.integers(low, high)).astype(np.int32)

    rollouts = []
    for number in range(count):
        completion = tokens(2, 14) if number != 5 else np.empty(0, np.int32)
        contexts = [TokenView(ViewKind.PRIMARY, tokens(8, 20))]
        contexts += [TokenView(ViewKind.AUXILIARY, tokens(8, 24)) for _ in range(views)]
        contexts += [TokenView(ViewKind.NEGATIVE, tokens(8, 20))] if number % 4 else []
        rollouts.append(_rollout(number, tokens(3, 12), contexts, completion))
    return tuple(rollouts)


def make_sharing_rollouts(problems: int = 4, answers: int = 3, views: int = 3, seed: int = 0) -> tuple[Rollout, ...]:
    """Several answers to each problem; a system turn leads prompts and some views, one of two examples the others.

    What any two sequences share is at least 16 tokens. Two answers are equal, one ends on another's path, one is empty;
    a fourth have no negative view.
    """
    random = np.random.default_rng(seed)

    def tokens(length: int, first: Sequence[int] = ()) -> np.ndarray:
        return np.array([*first, *random.integers(0, VOCABULARY, length)], np.int32)

    system, examples = tokens(17, [1]), [tokens(17, [2]), tokens(17, [3])]
    rollouts = list[Rollout]()
    for problem in range(problems):
        prompt = tokens(6 + problem, system)
        contexts = [TokenView(ViewKind.PRIMARY, tokens(7, prompt))]
        for view in range(views):
            leads = [*examples[(problem + view) % 2], *prompt[len(system) :]]
            contexts.append(TokenView(ViewKind.AUXILIARY, tokens(3, leads)))
        contexts += [TokenView(ViewKind.NEGATIVE, tokens(7, prompt))] if problem % 4 else []
        first = tokens(9)
        completions = {0: [first, first, first[:5]], 1: [first, np.empty(0, np.int32)]}.get(problem, [first])
        completions += [tokens(3 + 4 * place) for place in range(answers - len(completions))]
        rollouts += [
            _rollout(len(rollouts) + place, prompt, contexts, each) for place, each in enumerate(completions[:answers])
        ]
    return tuple(rollouts)


def _rollout(number: int, prompt: np.ndarray, contexts: Sequence[TokenView], completion: np.ndarray) -> Rollout:
    return Rollout(
        number=number,
        id=str(number),
        source=Source.POLICY,
        prompt_tokens=prompt,
        views=tuple(contexts),
        completion_tokens=completion,
        logprobs=np.full(len(completion), -1.0, np.float32),
        lineages=np.zeros(len(completion), np.int32),
        versions=np.full(len(completion), -1, np.int32),
        finish_reason="stop",
        seed=number,
        actor="rig",
        started_s=0.0,
        finished_s=1.0,
    )


ALL_FIVE = {
    "divergence": {"alpha": 0.5},
    "clipping": {"quantile": 0.9},
    "agreement": {"level": "token"},
    "contrastive": {"signal": "logprob", "weight": 0.1, "margin": 0.5},
    "matching": {"weight": 0.1},
    "ema": {"beta": 0.9, "every": 1},
}


def learner_config(without: str = "", **sections: dict) -> Config:
    """All five mechanisms, less the section named; steps that show in a tiny model, and clipped gradients."""
    learner = {"learning_rate": 1e-2, "micro_batch_tokens": 64, "max_grad_norm": 0.3, **sections.pop("learner", {})}
    objective = sections.pop("objective", {name: section for name, section in ALL_FIVE.items() if name != without})
    contexts = {"auxiliary": {"views": 3}, "negative": {}}
    return Config.model_validate({"learner": learner, "objective": objective, "contexts": contexts, **sections})


def run_ranks(folder: Path, cases: list[Case], ranks: int) -> None:
    """Run the job in `ranks` processes on the CPU; fails with the end of what a failed one printed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.pickle").write_bytes(pickle.dumps(cases))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = _server()
    server.stdin.write(json.dumps([str(folder), ranks, port]) + "\n")
    server.stdin.flush()
    codes = json.loads(server.stdout.readline())
    for rank, code in enumerate(codes):
        text = (folder / f"rank-{rank}.log").read_text()
        assert code == 0, f"rank {rank} ended with {code}:\n{text[-4000:]}"


@functools.cache
def _server() -> subprocess.Popen[str]:
    """It ends when this process does, whose end closes its standard input."""
    at_import = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.learner_rig"],
        cwd=REPOSITORY,
        env={**os.environ, **at_import},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _serve() -> None:
    importlib.import_module("learner.learner")
    for line in sys.stdin:
        folder, ranks, port = json.loads(line)
        children = [_forked(Path(folder), rank, ranks, port) for rank in range(ranks)]
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)


def _forked(folder: Path, rank: int, ranks: int, port: int) -> int:
    """The id of the process of a rank."""
    if child := os.fork():
        return child
    signal.alarm(TIMEOUT_S)
    code = 1
    try:
        with (folder / f"rank-{rank}.log").open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        os.environ.update(_meeting(rank, ranks, port))
        _run_job(folder)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _meeting(rank: int, ranks: int, port: int) -> dict[str, str]:
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
    }


def _run_case(case: Case, rank: int, folder: Path) -> None:
    import torch

    from learner.learner import Learner

    learner = Learner(case.config, case.model, torch.device("cpu"))
    found: dict[str, object] = {"reports": []}
    if case.resume is not None:
        learner.load(case.resume, case.first)
    for step in range(case.first, case.first + case.steps):
        result = learner.forward_backward(list(case.shards[rank]), step)
        if result.counts.tokens:
            found[f"gradient {step}"] = _gradients(learner)
        found[f"masters {step}"] = _student_masters(learner)
        found[f"teacher {step}"] = _teacher(learner)
        found["reports"].append(learner.optim_step(result).flat())
    found["masters"] = _student_masters(learner)
    found["teacher"] = _teacher(learner)
    found["weights"] = {name: value.clone() for name, value in learner.weights()}
    found["base"] = _base(learner)
    first = case.shards[0][0]
    found["logprobs"] = torch.from_numpy(learner.logprobs(first.prompt_tokens, first.completion_tokens))
    if case.save is not None:
        learner.save(case.save, write=rank == 0, run_state=RunState(0, case.first + case.steps, 0, ()))
    if rank == 0:
        torch.save(found, folder / f"{case.name}.pt")
    learner.close()


def _teacher(learner: object) -> dict:
    return {name: value.clone() for name, value in learner.teacher.average()} if learner.teacher else {}


def _gradients(learner: object) -> dict:
    """The full gradient per parameter, before it is clipped: after `forward_backward`, before the step."""
    from deepspeed.utils import safe_get_full_grad

    gradients = {name: safe_get_full_grad(parameter) for name, parameter in learner.student.parameters.items()}
    assert all(gradient is not None for gradient in gradients.values())
    return {name: gradient.float().clone() for name, gradient in gradients.items()}


def _student_masters(learner: object) -> dict:
    from learner.sharding import all_gather_parameter, local_fp32_master

    return {
        name: all_gather_parameter(local_fp32_master(value), value).detach().clone()
        for name, value in learner.student.parameters.items()
    }


def _base(learner: object) -> dict:
    """The weights under the adapters, whole; everything where there are none."""
    from learner.lora import base_name
    from learner.sharding import iter_full_tensors, named_weights

    named = [(base_name(name), tensor) for name, tensor in named_weights(learner.student.lm.model)]
    return {
        name: tensor.clone() for name, tensor in iter_full_tensors((name, tensor) for name, tensor in named if name)
    }


def _run_job(folder: Path) -> None:
    from learner.sharding import init_process_group

    init_process_group(gpus=False, threads=1, timeout_s=TIMEOUT_S)
    for case in pickle.loads((folder / "job.pickle").read_bytes()):
        print(f"=== {case.name}", flush=True)
        _run_case(case, int(os.environ["RANK"]), folder)
    assert "vllm" not in sys.modules, "an engine and DeepSpeed do not live in one process"


if __name__ == "__main__":
    _serve()

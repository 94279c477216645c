"""Training runs of one side each, on one model, with the same numbers for every side: ours, and TRL's.

A step counts as timed from the third on: in the first two memory is sampled, which takes time itself.
"""

import json
import statistics
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.sides.footprint import Footprint, run_sampled
from unisd_rl.config import Config
from unisd_rl.config.load import load_recipe
from unisd_rl.contexts.templates import with_demonstration
from unisd_rl.types import Message

MODELS = ("tiny", "smollm2", "real_vocab")
OURS = ("sdft", "unisd_star")
BETA, ALPHA = 0.98, 0.5
TIMEOUT_S = 6 * 3600.0
UNTIMED_STEPS = 2
PROBE_STEPS = {"tiny": 4, "smollm2": 1, "real_vocab": 1}
_LEARNER = "ray::RankProcess"
_TRL = Path(__file__).parent / "trl_sdft.py"


@dataclass(frozen=True)
class TrlWay:
    """How TRL's trainer computes: settings that change its speed alone."""

    micro_batch: int
    attention: str
    threads: int


@dataclass(frozen=True)
class Row:
    """One side on one model."""

    model: str
    side: str
    answers_per_prompt: int
    seed: int
    steps: int
    """That were timed; `step_s` is their median."""
    samples_per_s: float
    step_s: float
    memory_gib: float
    """Of all processes of the side."""
    learner_gib: float
    """Of the process that trains."""
    accuracy: float | None
    """On held-out problems, greedy, after the last step."""
    settings: str
    folder: str
    """Of the trained model."""


def tree_of(model: str, side: str, answers: int, seed: int, options: Namespace, runs: Path) -> dict[str, Any]:
    """What is changed of the recipe `side` under the set-up `colocated`; the same numbers for every side."""
    tiny = model == "tiny"
    tree: dict[str, Any] = {
        "run": {
            "name": f"{model}-{side}-{answers}-{seed}",
            "dir": str(runs),
            "steps": steps_of(model, options),
            "seed": seed,
            "checkpoint_every": 0,
        },
        "model": {"base_seed": 0},
        "learner": {"batch_size": batch_of(model, options), "learning_rate": 3e-4 if tiny else 1e-5},
        "rollout": {"answers_per_prompt": answers, "temperature": 0.7, "max_staleness": 0},
        "objective": {"divergence": {"type": "jensen_shannon", "alpha": ALPHA}, "ema": {"beta": BETA, "every": 1}},
        "evaluation": {"every": None},
        "task": {"eval_examples": options.eval_examples},
    }
    if tiny:  # where vLLM's own work a step is more than the model's, and two threads wait for each other
        tree["rollout"] |= {"engine": {"type": "transformers"}, "cores": [0]}
    if side == "unisd_star" and not tiny:  # the embedded model of another order is another model
        tree["contexts"] = {"order": options.order}
    if not tiny:
        tree["model"]["path"] = str(options.smollm2 if model == "smollm2" else options.real_vocab)
        tree["task"] |= {"type": "scienceqa", "data": str(options.records), "train_examples": options.train_examples}
        tree["rollout"] |= {"max_prompt_tokens": options.prompt_tokens, "max_completion_tokens": options.answer_tokens}
    return tree


def steps_of(model: str, options: Namespace) -> int:
    """Of a run that is not a probe."""
    return int(options.tiny_steps if model == "tiny" else options.steps)


def batch_of(model: str, options: Namespace) -> int:
    """Completions a step."""
    return int(options.batch or (64 if model == "tiny" else 16))


def ours(model: str, side: str, answers: int, seed: int, options: Namespace, runs: Path) -> Row:
    """One of our recipes, as a person would run it."""
    tree = tree_of(model, side, answers, seed, options, runs)
    words = [word for name, value in _flat(tree) for word in (f"--{name}", json.dumps(value).strip('"'))]
    folder = runs / tree["run"]["name"]
    command = [sys.executable, "-m", "unisd_rl.run", side, "colocated", *words]
    metrics, log = folder / "metrics.jsonl", runs / f"{folder.name}.log"
    footprint = run_sampled(command, {}, log, TIMEOUT_S, lambda: _count_lines(metrics) >= UNTIMED_STEPS, _LEARNER)
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    seconds = [line["wait_s"] + line["learn_s"] + line["publish_s"] for line in lines]
    checkpoint = max(folder.glob("checkpoints/step-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    engine = tree["rollout"].get("engine", {"type": "vllm"})["type"]
    settings = ", ".join(["colocated", engine, *tree.get("contexts", {}).values()])
    return _row(model, side, answers, seed, tree, seconds, footprint, settings, checkpoint)


def trl(model: str, answers: int, seed: int, steps: int, way: TrlWay, options: Namespace, runs: Path) -> Row:
    """So many steps of TRL's trainer on the problems that our run of this model and seed takes, in the same order."""
    tree = tree_of(model, "sdft", answers, seed, options, runs)
    config = load_recipe("sdft", tree)
    folder = runs / f"{model}-trl-{answers}-{seed}-{way.micro_batch}-{way.attention}-{way.threads}"
    folder.mkdir(parents=True)
    problems = list(problems_of(config, steps * config.learner.batch_size // answers))
    path, found = problems[0]["model"], [problem["problem"] for problem in problems]
    job = {
        "out": str(folder),
        "model": path,
        "problems": found,
        **asdict(way),
        "seed": seed,
        "steps": steps,
        "batch": config.learner.batch_size,
        "answers_per_prompt": answers,
        "max_prompt_tokens": config.rollout.max_prompt_tokens,
        "max_completion_tokens": config.rollout.max_completion_tokens,
        "temperature": config.temperature,
        "learning_rate": config.learner.learning_rate,
        "warmup_fraction": config.learner.warmup_fraction,
        "max_grad_norm": config.learner.max_grad_norm,
        "alpha": ALPHA,
        "beta": BETA,
        "template": with_demonstration((Message("user", "{prompt}"),), "{privileged_context}")[0].content,
    }
    (folder / "job.json").write_text(json.dumps(job))
    command = [str(options.trl_python), str(_TRL), str(folder / "job.json")]
    environment, ended, log = {"OMP_NUM_THREADS": str(way.threads)}, folder / "ended.txt", folder / "log.txt"
    footprint = run_sampled(command, environment, log, TIMEOUT_S, lambda: _count_lines(ended) > UNTIMED_STEPS)
    seconds = [after - before for before, after in pairwise(map(float, ended.read_text().split()))]
    settings = f"micro-batch {way.micro_batch}, {way.attention}, threads {way.threads}"
    return _row(model, "trl", answers, seed, tree, seconds, footprint, settings, folder / "model")


def problems_of(config: Config, count: int) -> Iterator[dict[str, Any]]:
    """The first `count` problems in the order in which a run of this configuration trains on them."""
    from unisd_rl.base_model import ensure_base_model, recipe_of
    from unisd_rl.contexts.prepare import Preparation
    from unisd_rl.contexts.prompts import PromptStream
    from unisd_rl.driver.dry_run import SilentProgress, no_engine
    from unisd_rl.tasks.load import load_task

    path = ensure_base_model(recipe_of(config), print) if config.model.path is None else Path(config.model.path)
    task = load_task(config.task)
    stream = PromptStream(task, config, Preparation.create(config, task, path, no_engine, SilentProgress()).prepared())
    demonstrations = {example.id: example.demonstration for example in task.train}
    for number in range(count):
        prompt = stream.problem(number)
        chat = [{"role": turn.role, "content": turn.content} for turn in prompt.messages]
        problem = {"prompt": chat, "privileged_context": demonstrations[prompt.id]}
        yield {"model": str(path), "problem": problem}


def _count_lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def _row(
    model: str,
    side: str,
    answers: int,
    seed: int,
    tree: Mapping[str, Any],
    seconds: Sequence[float],
    footprint: Footprint,
    settings: str,
    folder: Path,
) -> Row:
    timed = seconds[UNTIMED_STEPS:] or seconds[-1:]  # a probe has one or two
    step_s, batch = statistics.median(timed), tree["learner"]["batch_size"]
    return Row(
        model=model,
        side=side,
        answers_per_prompt=answers,
        seed=seed,
        steps=len(timed),
        samples_per_s=batch / step_s,
        step_s=step_s,
        memory_gib=footprint.together / 2**30,
        learner_gib=footprint.largest / 2**30,
        accuracy=None,
        settings=settings,
        folder=str(folder),
    )


def with_accuracies(rows: Sequence[Row], runs: Path) -> list[Row]:
    """The rows of one model with what their models answer right, by the same command for every side."""
    model = rows[0].model
    out = runs / f"{model}-evaluation"
    recipe = runs / f"{model}-sdft-{rows[0].answers_per_prompt}-{rows[0].seed}" / "config.toml"
    folders = [row.folder for row in rows]
    command = [sys.executable, "-m", "unisd_rl.evaluate", *folders, "--recipe", str(recipe), "--out", str(out)]
    with (runs / f"{out.name}.log").open("w") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, timeout=TIMEOUT_S, check=True)
    results = json.loads((out / "results.json").read_text())["results"]
    accuracy = {each["model"]: each["accuracy"] for each in results}
    return [Row(**{**asdict(row), "accuracy": accuracy[row.folder]}) for row in rows]


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value

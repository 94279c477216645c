"""Our SDFT and UniSD*, colocated, against TRL's SDFT trainer: the same model, problems, batch, limits and numbers.

`python -m benchmarks.peers --trl-python PATH --smollm2 FOLDER --records FILE --json FILE` trains in turn, each side in
processes of its own:

    trl         `trl.experimental.sdft`: `full_logits`, EMA teacher, the fastest of `--trl-micro-batches` and
                `--trl-attention`, all cores
    sdft        the recipe of this name, colocated, with trees
    unisd_star  all five mechanisms, K = 3

on the embedded model (arithmetic), SmolLM2-135M (ScienceQA records), and four layers of Qwen2.5-0.5B with its 151,936
tokens (random weights, the same records). Both sides take the problems in one order, several answers to each. Samples a
second are completions over the time of the steps after the first; generation is in it, loading is not. Memory is PSS
summed over all processes of a side, Ray and engine included; the learner's process by itself is compared with TRL's.

PATH is a Python that has TRL 1.16, transformers, datasets and torch; nothing of this project is imported there.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.output import finish, machine, result_file, show_table
from benchmarks.sides.footprint import run_sampled
from unisd_rl.config import Config
from unisd_rl.config.load import load_recipe
from unisd_rl.contexts.templates import with_demonstration
from unisd_rl.types import Message

MODELS = ("tiny", "smollm2", "real_vocab")
OURS = ("sdft", "unisd_star")
BETA, ALPHA = 0.98, 0.5
TIMEOUT_S = 6 * 3600.0
_LEARNER = "ray::RankProcess"
_TRL = Path(__file__).parent / "sides" / "trl_sdft.py"


@dataclass(frozen=True)
class Row:
    """One side on one model."""

    model: str
    side: str
    answers_per_prompt: int
    seed: int
    steps: int
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


def tree_of(model: str, side: str, answers: int, seed: int, options: argparse.Namespace, runs: Path) -> dict[str, Any]:
    """What is changed of the recipe `side` under the set-up `colocated`; the same numbers for every side."""
    tiny, steps = model == "tiny", options.tiny_steps if model == "tiny" else options.steps
    batch = options.batch or (64 if tiny else 16)
    tree: dict[str, Any] = {
        "run": {
            "name": f"{model}-{side}-{answers}-{seed}",
            "dir": str(runs),
            "steps": steps,
            "seed": seed,
            "checkpoint_every": 0,
        },
        "model": {"base_seed": 0},
        "learner": {"batch_size": batch, "learning_rate": 3e-4 if tiny else 1e-5},
        "rollout": {"answers_per_prompt": answers, "temperature": 0.7, "max_staleness": 0},
        "objective": {"divergence": {"type": "jensen_shannon", "alpha": ALPHA}, "ema": {"beta": BETA, "every": 1}},
        "evaluation": {"every": None},
        "task": {"eval_examples": options.eval_examples},
    }
    if not tiny:
        tree["model"]["path"] = str(options.smollm2 if model == "smollm2" else options.real_vocab)
        tree["task"] |= {"type": "scienceqa", "data": str(options.records), "train_examples": options.train_examples}
        tree["rollout"] |= {"max_prompt_tokens": options.prompt_tokens, "max_completion_tokens": options.answer_tokens}
    return tree


def ours(model: str, side: str, answers: int, seed: int, options: argparse.Namespace, runs: Path) -> Row:
    """One of our recipes, as a person would run it."""
    tree = tree_of(model, side, answers, seed, options, runs)
    words = [word for name, value in _flat(tree) for word in (f"--{name}", json.dumps(value).strip('"'))]
    folder = runs / tree["run"]["name"]
    command = [sys.executable, "-m", "unisd_rl.run", side, "colocated", *words]
    footprint = run_sampled(command, {}, runs / f"{folder.name}.log", TIMEOUT_S, _LEARNER)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seconds = [line["wait_s"] + line["learn_s"] + line["publish_s"] for line in lines][1:]
    checkpoint = max(folder.glob("checkpoints/step-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return _row(model, side, answers, seed, tree, seconds, footprint, "colocated", checkpoint)


def trl(
    model: str, answers: int, seed: int, options: argparse.Namespace, runs: Path, micro_batch: int, attention: str
) -> Row:
    """TRL's trainer on the problems that our run of this model and seed takes, in the same order."""
    tree = tree_of(model, "sdft", answers, seed, options, runs)
    config = load_recipe("sdft", tree)
    folder = runs / f"{model}-trl-{answers}-{seed}-{micro_batch}-{attention}"
    folder.mkdir(parents=True)
    steps = options.probe_steps if options.probing else config.run.total_steps
    problems = list(problems_of(config, steps * config.learner.batch_size // answers))
    path, found = problems[0]["model"], [problem["problem"] for problem in problems]
    job = {
        "out": str(folder),
        "model": path,
        "problems": found,
        "threads": len(os.sched_getaffinity(0)),
        "attention": attention,
        "micro_batch": micro_batch,
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
    footprint = run_sampled(command, {"OMP_NUM_THREADS": str(job["threads"])}, folder / "log.txt", TIMEOUT_S)
    ended_s = json.loads((folder / "steps.json").read_text())
    seconds = [after - before for before, after in pairwise(ended_s)]
    settings = f"micro-batch {micro_batch}, {attention}"
    timed = seconds[1:] or seconds  # a probe of one step has no other
    return _row(model, "trl", answers, seed, tree, timed, footprint, settings, folder / "model")


def fastest_trl(model: str, answers: int, options: argparse.Namespace, runs: Path) -> tuple[int, str]:
    """Micro-batch and attention with which TRL is fastest, by short runs."""
    batch = options.batch or (64 if model == "tiny" else 16)
    sizes = [size for size in options.trl_micro_batches or [batch // 4, batch // 2, batch] if size <= batch]
    ways = [(size, attention) for size in sizes for attention in options.trl_attention]
    if len(ways) == 1:
        return ways[0]
    options.probing = True
    probed = {way: trl(model, answers, 0, options, runs / "probes", *way).step_s for way in ways}
    options.probing = False
    show_table(f"TRL on {model}", ("micro-batch", "attention", "s a step"), [(*way, s) for way, s in probed.items()])
    return min(probed, key=probed.__getitem__)


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


def _row(
    model: str,
    side: str,
    answers: int,
    seed: int,
    tree: Mapping[str, Any],
    seconds: Sequence[float],
    footprint: Any,
    settings: str,
    folder: Path,
) -> Row:
    step_s, batch = statistics.median(seconds), tree["learner"]["batch_size"]
    return Row(
        model=model,
        side=side,
        answers_per_prompt=answers,
        seed=seed,
        steps=len(seconds),
        samples_per_s=batch / step_s,
        step_s=step_s,
        memory_gib=footprint.together / 2**30,
        learner_gib=footprint.largest / 2**30,
        accuracy=None,
        settings=settings,
        folder=str(folder),
    )


def with_accuracies(rows: Sequence[Row], options: argparse.Namespace, runs: Path) -> list[Row]:
    """The rows of one model with what their models answer right, by the same command for every side."""
    model = rows[0].model
    out = runs / f"{model}-evaluation"
    recipe = runs / f"{model}-sdft-{rows[0].answers_per_prompt}-{rows[0].seed}" / "config.toml"
    folders = [row.folder for row in rows]
    command = [sys.executable, "-m", "unisd_rl.evaluate", *folders, "--recipe", str(recipe), "--out", str(out)]
    run_sampled(command, {}, runs / f"{out.name}.log", TIMEOUT_S)
    results = json.loads((out / "results.json").read_text())["results"]
    accuracy = {each["model"]: each["accuracy"] for each in results}
    return [Row(**{**asdict(row), "accuracy": accuracy[row.folder]}) for row in rows]


def ratios_of(rows: Sequence[Row]) -> dict[str, float]:
    """Ours over TRL's, medians over seeds, with several answers to a prompt: speed, memory, accuracy."""

    def of(model: str, side: str, name: str, answers: int) -> float | None:
        found = [getattr(row, name) for row in rows if (row.model, row.side) == (model, side)]
        chosen = [
            getattr(row, name)
            for row in rows
            if (row.model, row.side, row.answers_per_prompt) == (model, side, answers)
            and getattr(row, name) is not None
        ]
        return statistics.median(chosen) if found and chosen else None

    ratios = {}
    groups = sorted({row.answers_per_prompt for row in rows}, reverse=True)
    for model in MODELS:
        for answers in groups:
            suffix = model if answers == groups[0] else f"{model}.g{answers}"
            for name, side, field in (
                ("samples_per_s_vs_trl", "sdft", "samples_per_s"),
                ("unisd_vs_trl_sdft", "unisd_star", "samples_per_s"),
                ("memory_vs_trl", "sdft", "memory_gib"),
                ("learner_memory_vs_trl", "sdft", "learner_gib"),
            ):
                mine, theirs = of(model, side, field, answers), of(model, "trl", field, answers)
                if mine and theirs:
                    ratios[f"{name}.{suffix}"] = mine / theirs
            mine, theirs = of(model, "sdft", "accuracy", answers), of(model, "trl", "accuracy", answers)
            if mine is not None and theirs is not None:
                ratios[f"accuracy_minus_trl.{suffix}"] = mine - theirs
    return ratios


def show_rows(rows: Sequence[Row]) -> None:
    names = ("model", "side", "answers_per_prompt", "seed", "samples_per_s", "step_s", "memory_gib", "learner_gib")
    lines = [(*(getattr(row, name) for name in names), row.accuracy, row.settings) for row in rows]
    titles = ("model", "side", "G", "seed", "samples/s", "s a step", "GiB, all", "GiB, learner", "accuracy", "settings")
    show_table("against TRL's SDFT", titles, lines)


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _make_real_vocab(options: argparse.Namespace, folder: Path) -> None:
    from benchmarks.layouts.shapes import SHAPES, trained_tokenizer, write_model

    texts = options.records.read_text(encoding="utf-8").splitlines()[:2000]
    write_model(SHAPES["qwen2.5-0.5b"], trained_tokenizer(texts), "cpu", "float32", folder)


def measure(options: argparse.Namespace, runs: Path) -> list[Row]:
    rows = list[Row]()
    for model in options.models:
        if model == "real_vocab":
            options.real_vocab = runs / model
            _make_real_vocab(options, options.real_vocab)
        of_model = list[Row]()
        for answers in options.groups:
            way = fastest_trl(model, answers, options, runs)
            for seed in options.seeds if model == "tiny" else options.seeds[:1]:
                of_model.append(trl(model, answers, seed, options, runs, *way))
                of_model += [ours(model, side, answers, seed, options, runs) for side in OURS]
                show_rows(of_model)
        rows += of_model if model == "real_vocab" else with_accuracies(of_model, options, runs)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", type=Path, required=True, help="a Python that has TRL 1.16")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument(
        "--groups", type=int, nargs="+", default=[4], help="answers per prompt, the first for the ratios"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the tiny model; others take the first"
    )
    parser.add_argument("--tiny-steps", type=int, default=40)
    parser.add_argument("--steps", type=int, default=5, help="of the other models (default 5)")
    parser.add_argument("--batch", type=int, help="completions a step (default: tiny 64, others 16)")
    parser.add_argument("--prompt-tokens", type=int, default=2048)
    parser.add_argument("--answer-tokens", type=int, default=64)
    parser.add_argument("--train-examples", type=int, default=400)
    parser.add_argument("--eval-examples", type=int, default=128)
    parser.add_argument(
        "--trl-micro-batches", type=int, nargs="+", help="tried (default: a quarter, half, all of a batch)"
    )
    parser.add_argument("--trl-attention", nargs="+", default=["sdpa", "eager"], help="tried (default: sdpa eager)")
    parser.add_argument("--probe-steps", type=int, default=1)
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M-Instruct (examples/smollm2.py)")
    parser.add_argument("--records", type=Path, help="ScienceQA records, JSON Lines (task.data)")
    parser.add_argument("--runs", type=Path, help="keep the runs in this folder")
    parser.add_argument("--json", type=result_file, help="write machine, rows and ratios to this file")
    options = parser.parse_args()
    options.probing = False
    if set(options.models) - {"tiny"} and options.records is None:
        parser.error("--records: the ScienceQA records of smollm2 and real_vocab")
    if "smollm2" in options.models and options.smollm2 is None:
        parser.error("--smollm2: the folder of the model")
    found_on = machine(trl="1.16.0")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        runs = (options.runs or Path(scratch)).absolute()
        runs.mkdir(parents=True, exist_ok=True)
        rows = measure(options, runs)
    show_rows(rows)
    finish(found_on, [asdict(row) for row in rows], ratios_of(rows), options.json)


if __name__ == "__main__":
    main()

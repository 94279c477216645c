"""What views that share tokens save, and what they cost in accuracy on the embedded task.

`python -m benchmarks.contexts --json FILE` trains the default job once for each order of the auxiliary views
(`contexts.order`), number of answers a prompt and seed, all of a seed from one base model that has read prompts of both
orders, and reads the accuracies from the runs' evaluations. Runs that are there already are not repeated. Every run has
as many completions; with 4 answers a prompt it reads a quarter of the prompts.

`--only tokens` counts instead, for the first steps of the default job or of the run that further words describe
(`--model.path PATH --task.type jsonl ...`), the tokens that the teacher reads one sequence by one, and in a tree of the
prefixes of a step's sequences. The gold completion stands for the answers, of which no two share a token.

`ratios` holds `accuracy_gain.ORDER.gG`, after minus before, the mean over the seeds, and for the tokens
`tokens.ORDER.gG`, one by one over tree.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, product, takewhile
from pathlib import Path
from typing import Any, get_args

from benchmarks.arithmetic import RUN_TIMEOUT_S, accuracy, mean, records
from benchmarks.output import finish, machine, result_file, show_table
from unisd_rl.base_model import base_model_or_tokenizer, ensure_base_model
from unisd_rl.cli import parse_fields, user_path
from unisd_rl.config import Config
from unisd_rl.config.contexts import ContextOrder
from unisd_rl.config.load import load_recipe, overlay
from unisd_rl.contexts.prepare import Preparation
from unisd_rl.contexts.prompts import PromptStream
from unisd_rl.contexts.selection import with_data_limits
from unisd_rl.driver.dry_run import SilentProgress
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.tasks.load import load_task

ORDERS = get_args(ContextOrder)


@dataclass(frozen=True)
class Row:
    """One run. Accuracies and shares from 0 to 1."""

    order: str
    answers: int
    seed: int
    accuracy_before: float
    accuracy_after: float
    problems: int
    completions: int
    weight_mean: float
    weight_below_half: float
    effective_sample_size: float
    view_tokens: float
    """Tokens that the teacher's passes read in a step, mean."""
    learn_s: float
    """The learner's seconds of a step, median."""


def run_once(folder: Path, order: str, answers: int, seed: int) -> None:
    """The default job with these contexts, unless it has run."""
    if (folder / "summary.json").is_file():
        return
    base = ensure_base_model(seed, lambda *_: None, "question_first")
    given = {
        "--model.path": str(base),
        "--run.seed": str(seed),
        "--run.dir": str(folder.parent),
        "--run.name": folder.name,
        "--contexts.order": order,
        **({"--rollout.answers_per_prompt": str(answers)} if answers > 1 else {}),
    }
    words = [word for pair in given.items() for word in pair]
    command = [sys.executable, "-m", "unisd_rl.run", "unisd_star", "embedded", *words]
    subprocess.run(command, check=True, timeout=RUN_TIMEOUT_S)


def read(folder: Path, order: str, answers: int, seed: int) -> Row:
    """Every figure from the run's records."""
    steps = records(folder / "metrics.jsonl")
    before, after = (records(folder / "evaluations" / f"step-{step}.jsonl") for step in (0, len(steps)))
    return Row(
        order=order,
        answers=answers,
        seed=seed,
        accuracy_before=accuracy(before),
        accuracy_after=accuracy(after),
        problems=len(after),
        completions=len(records(folder / "consumed.jsonl")),
        weight_mean=mean(steps, "weight_mean"),
        weight_below_half=mean(steps, "weight_below_half"),
        effective_sample_size=mean(steps, "effective_sample_size"),
        view_tokens=sum(mean(steps, f"{kind}_tokens") for kind in ("primary", "auxiliary", "negative")),
        learn_s=statistics.median(step["learn_s"] for step in steps),
    )


def differences(rows: Sequence[Row]) -> Iterator[tuple[str, str, list[float]]]:
    """(what is compared, with what, the differences of the accuracies after training, seed by seed)."""
    after = {(row.order, row.answers, row.seed): row.accuracy_after for row in rows}
    arms = sorted({(row.order, row.answers) for row in rows}, key=lambda arm: (-ORDERS.index(arm[0]), arm[1]))
    for (order, answers), (other, fewer) in product(arms, arms):
        if (order == other and answers > fewer) or (answers == fewer and ORDERS.index(order) > ORDERS.index(other)):
            seeds = sorted(seed for a, g, seed in after if (a, g) == (order, answers) and (other, fewer, seed) in after)
            pairs = [after[order, answers, seed] - after[other, fewer, seed] for seed in seeds]
            yield f"{order}, {answers}", f"{other}, {fewer}", pairs


def show(rows: Sequence[Row]) -> None:
    show_table("accuracy", list(asdict(rows[0])), [list(asdict(row).values()) for row in rows])
    lines = [
        (one, other, " ".join(f"{100 * pair:+.1f}" for pair in pairs), *spread(pairs))
        for one, other, pairs in differences(rows)
        if pairs
    ]
    show_table("differences of accuracy, points", ("", "minus", "seed by seed", "mean", "standard error"), lines)


def spread(pairs: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its standard error, in points."""
    error = 100 * statistics.stdev(pairs) / len(pairs) ** 0.5 if len(pairs) > 1 else None
    return 100 * statistics.mean(pairs), error


def measure_accuracy(options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, float]]:
    rows = []
    for seed, answers, order in product(options.seeds, options.answers, options.orders):
        folder = options.runs.absolute() / f"{order}-g{answers}-{seed}"
        if not options.read_only:
            run_once(folder, order, answers, seed)
        if (folder / "summary.json").is_file():
            rows.append(read(folder, order, answers, seed))
    show(rows)
    arms = {(row.order, row.answers) for row in rows}
    gains = {
        f"accuracy_gain.{order}.g{answers}": statistics.mean(
            row.accuracy_after - row.accuracy_before for row in rows if (row.order, row.answers) == (order, answers)
        )
        for order, answers in sorted(arms)
    }
    return [asdict(row) for row in rows], gains


def measure_tokens(options: argparse.Namespace, words: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for order, donors, answers in product(options.orders, (None, *options.donors), options.answers):
            contexts = {"contexts": {"order": order, "donors_per_step": donors, "cache": f"{scratch}/contexts"}}
            config = load_recipe(options.recipe, overlay(parse_fields(words, "contexts"), contexts))
            one_by_one, tree = count_tokens(config, answers, options.steps, Path(scratch))
            name = order if donors is None else f"{order}, {donors} donors"
            rows.append({"contexts": name, "answers": answers, "one_by_one": one_by_one, "tree": tree})
    table = [(*row.values(), row["one_by_one"] / row["tree"]) for row in rows]
    show_table(f"tokens the teacher reads in {options.steps} steps", (*rows[0], "one by one / tree"), table)
    names = [f"tokens.{row['contexts'].replace(', ', '.').replace(' ', '_')}.g{row['answers']}" for row in rows]
    return rows, {name: row["one_by_one"] / row["tree"] for name, row in zip(names, rows, strict=True)}


def count_tokens(config: Config, answers: int, steps: int, scratch: Path) -> tuple[int, int]:
    """Tokens of the views of a run's first steps, with so many answers a prompt: one by one, and in a tree a step."""
    task = load_task(config.task)
    config, _ = with_data_limits(config, task)
    own, seed = config.model.path, config.model.base_seed
    model = Path(own) if own else base_model_or_tokenizer(seed, scratch, "question_first")
    stream = PromptStream(task, config, Preparation.create(config, task, model, None, SilentProgress()).prepared())
    tokenizer, demonstrations = ChatTokenizer(model), {each.id: each.demonstration for each in task.train}

    def sequences_of(number: int) -> list[list[int]]:
        """Every view of a prompt before each of its answers."""
        prompt = stream.prompt(number).prompt
        completion = tokenizer.encode_completion(demonstrations[prompt.id]).tolist()
        views = [tokenizer.encode_view(view.messages).tolist() for view in prompt.views]
        return [[*view, -1 - answer, *completion] for view, answer in product(views, range(answers))]

    batch, one_by_one, tree = config.learner.batch_size, 0, 0
    for first in range(0, steps * batch, batch):
        numbers = range(first, first + batch // answers)  # the first prompts of as many as have one answer each
        sequences = [sequence for number in numbers for sequence in sequences_of(number)]
        one_by_one, tree = one_by_one + sum(map(len, sequences)), tree + tree_tokens(sequences)
    return one_by_one, tree


def tree_tokens(sequences: Sequence[Sequence[int]]) -> int:
    """Nodes of the prefix tree of these sequences, the root not counted."""
    ordered = sorted(sequences)
    shared = (
        sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, next_, strict=False)))
        for one, next_ in pairwise(ordered)
    )
    return sum(map(len, ordered)) - sum(shared)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("accuracy", "tokens"), default="accuracy")
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=list(ORDERS))
    parser.add_argument("--answers", type=int, nargs="+", default=[1, 4], help="answers per prompt")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--donors", type=int, nargs="*", default=[8], help="sizes of the step's pool (tokens)")
    parser.add_argument("--steps", type=int, default=8, help="whose tokens are counted")
    parser.add_argument("--recipe", default="unisd_star", help="of the step whose tokens are counted")
    parser.add_argument("--runs", type=user_path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--read-only", action="store_true", help="read runs that are there already")
    parser.add_argument("--json", type=result_file, help="write machine, rows and ratios to this file")
    options, words = parser.parse_known_args()
    if words and options.only != "tokens":
        parser.error(f"unknown words: {' '.join(words)}")
    found_on = machine()
    rows, ratios = measure_tokens(options, words) if options.only == "tokens" else measure_accuracy(options)
    finish(found_on, rows, ratios, options.json)


if __name__ == "__main__":
    main()

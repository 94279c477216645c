"""What views that share tokens save, and what they cost in accuracy on the embedded task.

`python -m benchmarks.contexts --json FILE` trains the default job once for each kind of contexts, number of answers a
prompt and seed, all of a seed from one base model that has read prompts of both orders, and reads the accuracies from
the runs' evaluations. Kinds are each order of the auxiliary views (`contexts.order`), and the default order with a pool
of donors (`contexts.donors_per_step`). Every run has as many completions; with 4 answers a prompt it reads a quarter of
the prompts. The runs are on-policy, so that it does not matter how fast actors and learner are beside each other, and
what else the machine does. A run that is there already is not repeated, and one that was stopped is resumed.

`--only tokens` counts instead, for the first steps of the default job or of the run that further words describe
(`--model.path PATH --task.type jsonl ...`), the tokens that the teacher reads one sequence by one, and in a tree of the
prefixes of a step's sequences. The gold completion stands for the answers, of which no two share a token.

`ratios` holds `accuracy_gain.CONTEXTS.gG`, after minus before, the mean over the seeds; with `--only tokens`
`tokens.CONTEXTS.gG`, one by one over tree.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise, product, takewhile
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

DEFAULT_ORDER, *_ = ORDERS = get_args(ContextOrder)

ON_POLICY = (
    *("--rollout.engine.type", "transformers"),
    *("--rollout.max_staleness", "0"),
    *("--rollout.concurrency", "64"),  # of the engine without vLLM: it generates whole batches
)


@dataclass(frozen=True, order=True)
class Arm:
    """What one run has and another has not."""

    answers: int
    order: str
    donors: int | None

    @property
    def contexts(self) -> str:
        return self.order if self.donors is None else f"{self.donors}_donors"

    @property
    def name(self) -> str:
        return f"{self.contexts}.g{self.answers}"

    def differs_in_one(self, other: "Arm") -> bool:
        """Whether only the contexts, one of them the default, or only the number of answers is another."""
        contexts = {self.contexts, other.contexts}
        if self.answers != other.answers:
            return len(contexts) == 1
        return len(contexts) == 2 and DEFAULT_ORDER in contexts


@dataclass(frozen=True)
class Row:
    """One run. Accuracies and shares from 0 to 1."""

    contexts: str
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


def arms(options: argparse.Namespace) -> list[Arm]:
    kinds = [(order, None) for order in options.orders] + [(DEFAULT_ORDER, donors) for donors in options.donors]
    return [Arm(answers, order, donors) for answers, (order, donors) in product(options.answers, kinds)]


def measure_accuracy(options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, float]]:
    rows: dict[tuple[Arm, int], Row] = {}
    for seed, arm in product(options.seeds, arms(options)):
        folder = options.runs.absolute() / f"{arm.name}.seed{seed}"
        if not options.read_only:
            run_once(folder, arm, seed, seed if options.base_seed is None else options.base_seed)
        if (folder / "summary.json").is_file():
            rows[arm, seed] = read(folder, arm, seed)
    show_accuracy(rows)
    gains = {
        f"accuracy_gain.{arm.name}": statistics.mean(
            row.accuracy_after - row.accuracy_before for (of, _), row in rows.items() if of == arm
        )
        for arm in dict.fromkeys(arm for arm, _ in rows)
    }
    return list(map(asdict, rows.values())), gains


def run_once(folder: Path, arm: Arm, seed: int, base_seed: int) -> None:
    """The default job with these contexts, or the rest of it."""
    program = [sys.executable, "-m", "unisd_rl.run"]
    if (folder / "summary.json").is_file():
        return
    if (folder / "config.toml").is_file():
        subprocess.run([*program, "--resume", str(folder)], check=True, timeout=RUN_TIMEOUT_S)
        return
    base = ensure_base_model(base_seed, lambda *_: None, "question_first")
    given = {
        "--model.path": base,
        "--run.seed": seed,
        "--run.dir": folder.parent,
        "--run.name": folder.name,
        "--contexts.order": arm.order,
        **({"--contexts.donors_per_step": arm.donors} if arm.donors is not None else {}),
        **({"--rollout.answers_per_prompt": arm.answers} if arm.answers > 1 else {}),
    }
    words = [str(word) for pair in given.items() for word in pair]
    subprocess.run([*program, "unisd_star", "embedded", *ON_POLICY, *words], check=True, timeout=RUN_TIMEOUT_S)


def read(folder: Path, arm: Arm, seed: int) -> Row:
    """Every figure from the run's records."""
    steps = records(folder / "metrics.jsonl")
    before, after = (records(folder / "evaluations" / f"step-{step}.jsonl") for step in (0, len(steps)))
    return Row(
        contexts=arm.contexts,
        answers=arm.answers,
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


def show_accuracy(rows: dict[tuple[Arm, int], Row]) -> None:
    """All rows, and what arms that differ in one thing make of the same seeds."""
    show_table("runs", list(Row.__dataclass_fields__), [list(asdict(row).values()) for row in rows.values()])
    lines = []
    for one, other in combinations(dict.fromkeys(arm for arm, _ in rows), 2):
        seeds = [seed for arm, seed in rows if arm == other and (one, seed) in rows]
        points = [100 * (rows[other, s].accuracy_after - rows[one, s].accuracy_after) for s in seeds]
        if points and one.differs_in_one(other):
            error = statistics.stdev(points) / len(points) ** 0.5 if len(points) > 1 else None
            lines.append((other.name, one.name, " ".join(f"{p:+.1f}" for p in points), statistics.mean(points), error))
    columns = ("accuracy of", "minus", "seed by seed, points", "mean", "standard error")
    show_table("accuracy after training, differences", columns, lines)


def measure_tokens(options: argparse.Namespace, words: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    counts: dict[Arm, tuple[int, int]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for arm in arms(options):
            contexts = {"order": arm.order, "donors_per_step": arm.donors, "cache": f"{scratch}/contexts"}
            config = load_recipe(options.recipe, overlay(parse_fields(words, "contexts"), {"contexts": contexts}))
            counts[arm] = count_tokens(config, arm.answers, options.steps, Path(scratch))
    ratios = {arm: one_by_one / tree for arm, (one_by_one, tree) in counts.items()}
    lines = [(arm.contexts, arm.answers, *counts[arm], ratios[arm]) for arm in counts]
    columns = ("contexts", "answers", "one by one", "in a tree", "ratio")
    show_table(f"tokens the teacher reads in {options.steps} steps", columns, lines)
    rows = [
        {"contexts": arm.contexts, "answers": arm.answers, "one_by_one": one_by_one, "tree": tree}
        for arm, (one_by_one, tree) in counts.items()
    ]
    return rows, {f"tokens.{arm.name}": ratio for arm, ratio in ratios.items()}


def count_tokens(config: Config, answers: int, steps: int, scratch: Path) -> tuple[int, int]:
    """Tokens of the views of a run's first steps, with so many answers a prompt: one by one, and in a tree a step."""
    one_by_one, tree = 0, 0
    for sequences in step_sequences(config, answers, steps, scratch):
        one_by_one, tree = one_by_one + sum(map(len, sequences)), tree + tree_tokens(sequences)
    return one_by_one, tree


def step_sequences(config: Config, answers: int, steps: int, scratch: Path) -> Iterator[list[list[int]]]:
    """For each step every view of its first prompts before each of their answers; as many answers as a step has."""
    task = load_task(config.task)
    config, _ = with_data_limits(config, task)
    own, seed = config.model.path, config.model.base_seed
    model = Path(own) if own else base_model_or_tokenizer(seed, scratch, "question_first")
    stream = PromptStream(task, config, Preparation.create(config, task, model, None, SilentProgress()).prepared())
    tokenizer, demonstrations = ChatTokenizer(model), {each.id: each.demonstration for each in task.train}
    batch = config.learner.batch_size
    for first in range(0, steps * batch, batch):
        sequences = []
        for number in range(first, first + batch // answers):
            prompt = stream.prompt(number).prompt
            completion = tokenizer.encode_completion(demonstrations[prompt.id]).tolist()
            views = [tokenizer.encode_view(view.messages).tolist() for view in prompt.views]
            sequences += [[*view, -1 - answer, *completion] for view, answer in product(views, range(answers))]
        yield sequences


def tree_tokens(sequences: Sequence[Sequence[int]]) -> int:
    """Nodes of the prefix tree of these sequences, the root not counted."""
    ordered = sorted(sequences)
    shared = (
        sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, following, strict=False)))
        for one, following in pairwise(ordered)
    )
    return sum(map(len, ordered)) - sum(shared)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("accuracy", "tokens"), default="accuracy")
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=list(ORDERS))
    parser.add_argument("--donors", type=int, nargs="*", default=[8], help="sizes of a step's pool, in the usual order")
    parser.add_argument("--answers", type=int, nargs="+", default=[1, 4], help="answers per prompt")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--base-seed", type=int, help="of one base model for all seeds; absent: each seed has its own")
    parser.add_argument("--steps", type=int, default=8, help="whose tokens are counted")
    parser.add_argument("--recipe", default="unisd_star", help="of the run whose tokens are counted")
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

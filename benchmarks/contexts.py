"""How many tokens the teacher reads less where views share them.

`python -m benchmarks.contexts --json FILE` counts, for the first steps of the default job or of the run that further
words describe (`--model.path PATH --task.type jsonl ...`), the tokens that the teacher reads one sequence by one, and
in a tree of the prefixes of a step's sequences. Kinds of contexts are each order of the auxiliary views
(`contexts.order`), and the default order with a pool of donors (`contexts.donors_per_step`); the gold completion stands
for the answers, of which no two share a token. What that costs in accuracy: `unisd-rl ablate grids/contexts.toml`.

`ratios` holds `tokens.CONTEXTS.gG`, one by one over tree.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product, takewhile
from pathlib import Path
from typing import Any, get_args

from benchmarks.output import finish, machine, result_file, show_table
from unisd_rl.base_model import base_model_or_tokenizer, recipe_of
from unisd_rl.cli import parse_fields
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


def arms(options: argparse.Namespace) -> list[Arm]:
    kinds = [(order, None) for order in options.orders] + [(DEFAULT_ORDER, donors) for donors in options.donors]
    return [Arm(answers, order, donors) for answers, (order, donors) in product(options.answers, kinds)]


def measure(options: argparse.Namespace, words: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, float]]:
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
    own = config.model.path
    model = Path(own) if own else base_model_or_tokenizer(recipe_of(config), scratch)
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
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=list(ORDERS))
    parser.add_argument("--donors", type=int, nargs="*", default=[8], help="sizes of a step's pool, in the usual order")
    parser.add_argument("--answers", type=int, nargs="+", default=[1, 4], help="answers per prompt")
    parser.add_argument("--steps", type=int, default=8, help="whose tokens are counted")
    parser.add_argument("--recipe", default="unisd_star", help="of the run whose tokens are counted")
    parser.add_argument("--json", type=result_file, help="write machine, rows and ratios to this file")
    parser.add_argument("--quick", action="store_true", help="one step, one order")
    options, words = parser.parse_known_args()
    if options.quick:
        options.steps, options.orders, options.donors = 1, options.orders[:1], []
    found_on = machine()
    rows, ratios = measure(options, words)
    finish(found_on, rows, ratios, options.json)


if __name__ == "__main__":
    main()

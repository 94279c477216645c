"""A learner's step with context trees beside the same step with packed sequences: time, tokens, memory, in one run.

`python -m benchmarks.trees --json FILE` takes steps of UniSD* (K = 3, 8 answers) on real ScienceQA and MBPP records
(`--data`, by default ../shared/data) with answers that the models sample themselves, in `learner.layout` packed and
tree in turns. Cases: `g1`, one answer to each of 8 prompts; `g4`, 4 answers to each of 2 prompts, in two steps; both
with `contexts.order = "question_first"` too; a round takes one step of each. SmolLM2-135M's sizes read ScienceQA, those
of Qwen2.5-0.5B with 4 of its layers MBPP (with `--models` or `--records`, each model all records); weights are random,
or SmolLM2's own (`--smollm2 FOLDER`, which examples/smollm2.py makes).

Ratios, packed over tree, of medians that are summed over models and records (`NAME.CASE`), and of each of those alone
(`NAME.CASE.MODEL.RECORDS`): `teacher_time`, the passes over all views; `step_time`, all of a step but the optimiser's
part; `teacher_tokens` and `step_tokens`, tokens read, those with gradient three times: what could be had.
`teacher_efficiency` and `step_efficiency` are the smallest share of a ratio of tokens that is had in time;
`teacher_work` and `step_work`: multiplications, those of the head too, which no layout saves; the smallest share of
them that is had in time is `teacher_work_efficiency` and `step_work_efficiency`. Of tree over packed: `memory`, the
largest ratio of peaks. `logprob_difference` (nats) and `gradient_difference` (of the norm, relative) are the largest
between two layouts.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from benchmarks.layouts.rollouts import CASES, MADE_UP, Answers, answers_needed, problems_of, steps_of, texts_of
from benchmarks.layouts.shapes import SHAPES, tokenizer_of, trained_tokenizer, write_model
from benchmarks.layouts.worker import Setting, StepFigures, Worker, WorkerFailed
from benchmarks.output import finish, machine, result_file, screen, show_table
from unisd_rl.types import Rollout

DATA = Path(__file__).parents[2] / "shared" / "data"
FILES = {"scienceqa": "scienceqa.jsonl", "mbpp": "mbpp_sanitized.jsonl"}
LAYOUTS = ("packed", "tree", "padded")
GRADIENT_PASSES = 3
"""What a token costs with gradient, in passes without: the backward pass costs two."""
VIEWS = 5
"""Of an answer: the primary one, K = 3 auxiliary ones, the negative one."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What is measured."""

    models: list[str]
    records: list[str]
    paired: bool
    """The first model reads the first kind of records, the second the second; else each reads all."""
    layouts: list[str]
    cases: list[str]
    answers: int
    """Of a step."""
    longest_answer: int
    rounds: int
    device: str
    dtype: str
    lora: int | None
    """Rank of an adapter; None: all weights are trained."""
    gradient_tokens: int
    threads: int


@dataclass(frozen=True)
class Step:
    """One step that every layout takes."""

    records: str
    case: str
    rollouts: list[Rollout]


def measure(options: Options, data: Path, smollm2: Path | None, folder: Path) -> list[Row]:
    """A row for each model, kind of records, case and layout."""
    rows = []
    tasks = {name: task_settings(name, data) for name in options.records}
    tokenizer = tokenizer_of(smollm2) if smollm2 else trained_tokenizer(texts_of(tasks.values()))
    with Progress(console=Console(stderr=True)) as progress:
        for place, name in enumerate(options.models):
            bar = progress.add_task(f"{name}: its own answers", total=None)
            own = smollm2 if name == "smollm2" else None
            model = own or write_model(SHAPES[name], tokenizer, options.device, options.dtype, folder / name)
            read = [options.records[place]] if options.paired else options.records
            steps = [step for records in read for step in steps_with(options, tasks[records], model, own is not None)]
            progress.update(bar, description=f"{name}: steps", total=len(schedule(steps, options.rounds)))
            figures: dict[tuple[int, str], list[StepFigures]] = defaultdict(list)
            with ExitStack() as stack:
                workers = workers_of(options, model, stack)
                warm_up(workers, steps, options.device)
                for number, at in schedule(steps, options.rounds):
                    for layout in list(workers)[:: 1 if number % 2 else -1]:
                        figures[at, layout].append(workers[layout].step(steps[at].rollouts))
                    progress.advance(bar)
            rows += rows_of(name, steps, figures, options)
    return rows


def task_settings(name: str, data: Path) -> Row:
    """The section `task`: real records, or problems that a task makes up."""
    if name in MADE_UP:
        return {"type": name, "train_examples": 300, "eval_examples": 1}
    return {"type": name, "data": str(data / FILES[name])}


def steps_with(options: Options, task: Row, model: Path, ends_answers: bool) -> list[Step]:
    """The steps of every case. Both orders of the views have the same problems and answers."""
    cases = [CASES[name] for name in options.cases]
    counts = answers_needed(cases, options.answers)
    problems = {case.order: problems_of(task, model, case.order, len(counts)) for case in cases}
    prompts = [problem.prompt for problem in next(iter(problems.values()))]
    model_answers = Answers(model, options.device, options.dtype, options.longest_answer, ends_answers)
    answers = model_answers.sample(prompts, counts)
    return [
        Step(task["type"], case.name, rollouts)
        for case in cases
        for rollouts in steps_of(case, problems[case.order], answers, options.answers)
    ]


def workers_of(options: Options, model: Path, stack: ExitStack) -> dict[str, Worker]:
    """One worker a layout; what a model cannot read is left out, and said."""
    o, workers = options, {}
    for layout in o.layouts:
        setting = Setting(model, layout, o.device, o.threads, o.dtype, o.lora, o.gradient_tokens)
        try:
            workers[layout] = stack.enter_context(closing(Worker(setting)))
        except WorkerFailed as error:
            screen().print(f"layout {layout} is left out: {error}")
    if not workers:
        sys.exit("no layout is left to measure")
    return workers


def warm_up(workers: dict[str, Worker], steps: Sequence[Step], device: str) -> None:
    """Elsewhere than on a GPU one answer makes gradients and moments; there kernels are compiled for every length."""
    for step in steps if device == "cuda" else steps[:1]:
        for worker in workers.values():
            worker.step(step.rollouts if device == "cuda" else step.rollouts[:1])


def schedule(steps: Sequence[Step], rounds: int) -> list[tuple[int, int]]:
    """(number of the round, place of the step): each round takes one step of every case, its next one."""
    groups = places_of(steps).values()
    return [(number, group[number % len(group)]) for number in range(rounds) for group in groups]


def places_of(steps: Sequence[Step]) -> dict[tuple[str, str], list[int]]:
    """Where the steps of each kind of records and case stand."""
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, step in enumerate(steps):
        places[step.records, step.case].append(place)
    return places


def rows_of(
    model: str, steps: Sequence[Step], figures: dict[tuple[int, str], list[StepFigures]], options: Options
) -> list[Row]:
    """Of each kind of records, case and layout the sums over its steps of medians over the rounds."""
    rows = []
    for (records, case), group in places_of(steps).items():
        layouts = [layout for layout in options.layouts if (group[0], layout) in figures]
        for layout in layouts:
            found = [figures[place, layout] for place in group]
            base = [figures[place, layouts[0]] for place in group]
            rows.append(
                {
                    "model": model,
                    "records": records,
                    "case": case,
                    "layout": layout,
                    **{name: total(found, name) for name in ("wall_s", "teacher_s", "student_s", "update_s")},
                    **{
                        name: total(found, name)
                        for name in ("teacher_tokens", "clip_tokens", "student_tokens", "passes")
                    },
                    "layer_weights": SHAPES[model].layer_weights,
                    "head_weights": SHAPES[model].head_weights,
                    "answer_tokens": sum(len(one.completion_tokens) for p in group for one in steps[p].rollouts),
                    "peak_mib": max(one.peak_mib for rounds in found for one in rounds),
                    **differences(found, base),
                }
            )
    return rows


def total(found: Sequence[Sequence[StepFigures]], name: str) -> float:
    """The sum over steps of the median over rounds."""
    return sum(statistics.median(getattr(one, name) for one in rounds) for rounds in found)


def differences(found: Sequence[Sequence[StepFigures]], base: Sequence[Sequence[StepFigures]]) -> Row:
    """Between two layouts, in the first round of each step: whatever the weights are, they are still the same there."""
    pairs = [(left[0], right[0]) for left, right in zip(found, base, strict=True)]
    return {
        "logprob_difference": max(left.largest_difference(right) for left, right in pairs),
        "gradient_difference": max(abs(left.gradient_norm / right.gradient_norm - 1) for left, right in pairs),
    }


def ratios_of(rows: Sequence[Row]) -> dict[str, float]:
    """As the module says; none without both packed and tree."""
    if not {"packed", "tree"} <= {row["layout"] for row in rows}:
        return {}
    ratios: dict[str, float] = {}
    for case in dict.fromkeys(row["case"] for row in rows):
        of_case = [row for row in rows if row["case"] == case]
        ratios |= {f"{name}.{case}": ratio for name, ratio in packed_over_tree(of_case).items()}
        each = {}
        for model, records in dict.fromkeys((row["model"], row["records"]) for row in of_case):
            one = [row for row in of_case if (row["model"], row["records"]) == (model, records)]
            each[f"{case}.{model}.{records}"] = packed_over_tree(one) | {"memory": memory_ratio(one)}
        for part in ("teacher", "step"):
            for name, ideal in (("efficiency", "tokens"), ("work_efficiency", "work")):
                shares = (found[f"{part}_time"] / found[f"{part}_{ideal}"] for found in each.values())
                ratios[f"{part}_{name}.{case}"] = min(shares)
        ratios[f"memory.{case}"] = max(found["memory"] for found in each.values())
        ratios |= {f"{name}.{where}": ratio for where, found in each.items() for name, ratio in found.items()}
    for name in ("logprob_difference", "gradient_difference"):
        ratios[name] = max(row[name] for row in rows)
    return ratios


def packed_over_tree(rows: Iterable[Row]) -> dict[str, float]:
    """Ratios of what the rows of the two layouts add up to."""
    sums: dict[str, dict[str, float]] = {layout: defaultdict(float) for layout in LAYOUTS}
    for row in rows:
        of_layout = sums[row["layout"]]
        of_layout["teacher_time"] += row["teacher_s"]
        of_layout["step_time"] += row["wall_s"]
        of_layout["teacher_tokens"] += row["teacher_tokens"]
        without_gradient = row["teacher_tokens"] + row["clip_tokens"]
        step_tokens = without_gradient + GRADIENT_PASSES * row["student_tokens"]
        of_layout["step_tokens"] += step_tokens
        head, layers = row["head_weights"] * row["answer_tokens"], row["layer_weights"]
        of_layout["teacher_work"] += layers * row["teacher_tokens"] + VIEWS * head
        of_layout["step_work"] += layers * step_tokens + (VIEWS + 1 + GRADIENT_PASSES) * head
    return {name: value / sums["tree"][name] for name, value in sums["packed"].items()}


def memory_ratio(rows: Sequence[Row]) -> float:
    """Peak of the tree over that of packed sequences, of one model, kind of records and case."""
    peaks = {row["layout"]: row["peak_mib"] for row in rows}
    return peaks["tree"] / peaks["packed"]


def show(rows: Sequence[Row]) -> None:
    """One table."""
    columns = ("model", "records", "case", "layout", "step s", "teacher s", "student s", "teacher tokens")
    more = ("student tokens", "answer tokens/s", "peak MiB", "log-prob difference")
    names = ("model", "records", "case", "layout", "wall_s", "teacher_s", "student_s", "teacher_tokens")
    lines = [
        (
            *(row[name] for name in names),
            row["student_tokens"],
            row["answer_tokens"] / row["wall_s"],
            row["peak_mib"],
            row["logprob_difference"],
        )
        for row in rows
    ]
    show_table("steps of UniSD*, K = 3, without the optimiser's part", (*columns, *more), lines)


def names(known: Iterable[str], text: str) -> list[str]:
    """Names that a comma separates, each one of `known`."""
    found = text.split(",")
    if unknown := [name for name in found if name not in known]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=result_file, help="write machine, rows and ratios to this file")
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model, short answers, one round: does it run at all"
    )
    parser.add_argument("--data", type=Path, default=DATA, help="folder with scienceqa.jsonl and mbpp_sanitized.jsonl")
    parser.add_argument("--smollm2", type=Path, help="folder with SmolLM2's weights and tokenizer")
    for name, known in (("models", SHAPES), ("records", (*FILES, *MADE_UP)), ("layouts", LAYOUTS), ("cases", CASES)):
        parser.add_argument(f"--{name}", type=lambda text, known=known: names(known, text), help=", ".join(known))
    parser.add_argument("--answers", type=int, default=8, help="answers of a step (default 8)")
    parser.add_argument("--longest-answer", type=int, help="tokens of the longest answer (default 64)")
    parser.add_argument("--rounds", type=int, help="at least 2, so that every step is taken (default 2)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--lora", type=int, help="train an adapter of this rank (default: all weights)")
    parser.add_argument("--gradient-tokens", type=int, default=4096, help="learner.micro_batch_tokens (default 4096)")
    arguments = parser.parse_args()
    quick, real = arguments.quick, arguments.data.is_dir()
    if not real and not arguments.records:
        screen().print(f"{arguments.data} is not a folder: problems are made up")
    paired = not quick and real and not (arguments.models or arguments.records)
    options = Options(
        models=arguments.models or (["tiny"] if quick else ["smollm2", "qwen2.5-0.5b"]),
        records=arguments.records or (list(FILES) if real and not quick else list(MADE_UP[:1])),
        paired=paired,
        layouts=arguments.layouts or ["packed", "tree"],
        cases=arguments.cases or list(CASES),
        answers=arguments.answers,
        longest_answer=arguments.longest_answer or (12 if quick else 64),
        rounds=max(arguments.rounds or 2, 2),
        device=arguments.device,
        dtype="bfloat16" if arguments.device == "cuda" else "float32",
        lora=arguments.lora,
        gradient_tokens=arguments.gradient_tokens,
        threads=arguments.threads,
    )
    found_on = machine(
        torch=torch.__version__,
        device_name=torch.cuda.get_device_name() if options.device == "cuda" else "",
        weights="SmolLM2's own" if arguments.smollm2 else "random",
        shapes={name: asdict(SHAPES[name]) for name in options.models},
        **asdict(options),
    )
    # Beside a GPU the weights of a large model go through memory: a disk would take too long.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if options.device == "cuda" else None) as folder:
        rows = measure(options, arguments.data, arguments.smollm2, Path(folder))
    show(rows)
    finish(found_on, rows, ratios_of(rows), arguments.json)


if __name__ == "__main__":
    sys.exit(main())

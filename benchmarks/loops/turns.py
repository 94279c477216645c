"""The colocated loop against its ideal: each side alone on all cores, one after the other, and nothing between them.

    colocated    the loop of `unisd_rl.train` with `run.placement` colocated, at max_staleness 0
    generating   vLLM alone, on all cores, on the prompts of the same batches, a batch at a time
    learning     a learner alone, on all cores, on the same batches as they lie in the ledger
    apart        the loop at max_staleness 1 with half the cores for each side

The ideal step is generating + learning: with R core-seconds for one and L for the other, (R + L) / cores. UniSD* with
three auxiliary views, with one answer to each prompt and with four: the embedded model on its own task, and SmolLM2's
shape with random weights on ScienceQA records (`--data`) or, without them, on a task that is made up.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from benchmarks.layouts.rollouts import VIEWS, texts_of
from benchmarks.layouts.shapes import SHAPES, trained_tokenizer, write_model
from benchmarks.loops.bare_engine import spawn_bare_engine
from benchmarks.loops.real import FIRST, STEP_S, looped, tokens_of, train
from benchmarks.loops.rollout import folder_of
from benchmarks.loops.rows import Row, TurnsRow
from learner.group import LearnerGroup
from unisd_rl.cluster.cores import CorePlan, core_plan
from unisd_rl.cluster.ray_cluster import connected
from unisd_rl.cluster.resources import requirements
from unisd_rl.config import Config
from unisd_rl.config.load import load_recipe
from unisd_rl.driver.build import prompt_stream
from unisd_rl.driver.console import Console
from unisd_rl.driver.replay_job import Recording
from unisd_rl.driver.run_dir import RunDirectory
from unisd_rl.storage.recorded_run import RecordedRun
from unisd_rl.tasks.load import load_task

GROUPS = (1, 4)
"""Answers per prompt."""
EMBEDDED, SMOLLM2 = "embedded", "smollm2"
MODELS = (EMBEDDED, SMOLLM2)
Sections = dict[str, dict[str, Any]]


def turns(options: argparse.Namespace) -> list[TurnsRow]:
    """Four rows for each model and size of groups."""
    rows = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for model in options.models:
            sections, steps = model_sections(model, Path(folder), options), steps_of(model, options)
            for group in options.groups:
                one = Path(folder) / f"{model}-{group}"
                seconds = four_rows(sections, one, group, steps, options)
                rows += [turns_row(row, model, group) for row in seconds]
    return rows


def turns_row(row: Row, model: str, group: int) -> TurnsRow:
    """The loop's row, or that of one side alone."""
    if row.part in ("generating", "learning"):
        return TurnsRow(row.part, model, group, row.steps, row.seconds)
    return TurnsRow(row.part, model, group, row.steps, row.seconds, row.waited_s, row.learn_s, row.published_s)


def turns_ratios(rows: Sequence[TurnsRow]) -> dict[str, float]:
    """`colocated_vs_ideal.MODEL.gG`, the smallest of SmolLM2's shape, and how much faster than apart."""
    found = {}
    for model, group in dict.fromkeys((row.model, row.group) for row in rows):
        seconds = {row.part: row.seconds for row in rows if (row.model, row.group) == (model, group)}
        ideal_s = seconds["generating"] + seconds["learning"]
        found[f"colocated_vs_ideal.{model}.g{group}"] = ideal_s / seconds["colocated"]
        if "apart" in seconds:
            found[f"colocated_vs_apart.{model}.g{group}"] = seconds["apart"] / seconds["colocated"]
    if of_smollm2 := [ratio for name, ratio in found.items() if name.startswith(f"colocated_vs_ideal.{SMOLLM2}.")]:
        found["colocated_vs_ideal"] = min(of_smollm2)
    return found


def steps_of(model: str, options: argparse.Namespace) -> int:
    return options.steps if model == EMBEDDED else options.turns_steps


def model_sections(model: str, folder: Path, options: argparse.Namespace) -> Sections:
    """What is the model's own: its folder, its task and the sizes of a step."""
    if model == EMBEDDED:
        return {"task": {"type": "arithmetic", "eval_examples": 1}}
    records = options.data / "scienceqa.jsonl"
    task: dict[str, Any] = {"type": "scienceqa", "data": str(records), "eval_examples": 1}
    if options.quick or not records.is_file():
        task = {"type": "tool_use", "train_examples": 64, "eval_examples": 1}
    # vLLM has no attention for heads of 16 on a CPU.
    shape = replace(SHAPES["tiny"], heads=1, key_heads=1) if options.quick else SHAPES[SMOLLM2]
    written = write_model(shape, trained_tokenizer(texts_of([task])), "cpu", "float32", folder / model)
    auxiliary = {"views": VIEWS} | ({"type": "random"} if task["type"] == "tool_use" else {})
    return {
        "model": {"path": str(written)},
        "task": task,
        "contexts": {"auxiliary": auxiliary},
        "rollout": {"max_completion_tokens": 40, "max_prompt_tokens": 2048},
        "learner": {"batch_size": options.turns_answers, "learning_rate": 1e-5},
    }


def configured(sections: Sections, path: Path, group: int, steps: int, changes: Sections) -> Config:
    """UniSD* with these sizes, after which `changes`."""
    batch = sections.get("learner", {}).get("batch_size", 64)
    given: Sections = {
        "run": {"dir": str(path.parent), "name": path.name, "steps": FIRST + steps, "checkpoint_every": 0},
        "rollout": {"answers_per_prompt": group, "concurrency": batch},
    }
    for layer in (sections, changes):
        for section, values in layer.items():
            given[section] = {**given.get(section, {}), **values}
    return load_recipe("unisd_star", given)


def four_rows(sections: Sections, path: Path, group: int, steps: int, options: argparse.Namespace) -> list[Row]:
    in_turns: Sections = {"run": {"placement": "colocated"}, "rollout": {"max_staleness": 0}}
    config = configured(sections, path, group, steps, in_turns)
    rows = [looped("colocated", config, steps), *alone(config, steps)]
    if options.apart:
        apart = configured(sections, path.with_name(f"{path.name}-apart"), group, steps, {})
        rows.append(looped("apart", apart, steps))
    return rows


def alone(config: Config, steps: int) -> list[Row]:
    """Each side by itself on what the run of this configuration left; the same steps are timed."""
    run, timed = RecordedRun.at(config.run_dir), range(FIRST, FIRST + steps)
    recording = Recording(run, config.learner.batch_size, config.rollout.answers_per_prompt, config.run.total_steps)
    folder, plan = config.run_dir, core_plan(config)
    (folder / "alone" / "logs").mkdir(parents=True)
    with (folder / "screen.log").open("a") as log, redirect_stdout(log), Console() as console:
        task, directory = load_task(config.task), RunDirectory(folder / "alone")
        stream = prompt_stream(config, task, folder_of(config), directory, console)
    size = config.learner.batch_size
    batches = [tuple(stream.prompt(step * size + place) for place in range(size)) for step in range(timed.stop)]
    with connected(config, requirements(config)):
        engine = spawn_bare_engine(config, plan.of_actor(0), folder_of(config), folder)
        answered = [ray.get(engine.generate.remote(prompts), timeout=STEP_S) for prompts in batches]
        ray.kill(engine)
        tokens_per_s = sum(answered[step][0] for step in timed) / sum(answered[step][1] for step in timed)
        learners = LearnerGroup(config, CorePlan((), plan.learner), folder_of(config), folder / "alone")
        try:
            learners.start(config.run.start_timeout_s)
            learn_s = [learned(learners, recording, step) for step in range(timed.stop)]
        finally:
            learners.close()
    rollout_s, learned_s = tokens_of(recording, timed) / tokens_per_s, sum(learn_s[step] for step in timed)
    return [
        Row("generating", 0, steps, rollout_s, rollout_s, 0.0, 0.0, 0.0),
        Row("learning", 0, steps, learned_s, None, learned_s, 0.0, 0.0),
    ]


def learned(learners: LearnerGroup, recording: Recording, step: int) -> float:
    """Seconds of one step."""
    began_s = time.perf_counter()
    train(learners, recording, step)
    return time.perf_counter() - began_s

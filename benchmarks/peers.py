"""Our SDFT and UniSD*, colocated, against TRL's SDFT trainer: the same model, problems, batch, limits and numbers.

`python -m benchmarks.peers --trl-python PATH --smollm2 FOLDER --records FILE --json FILE` trains in turn, each side in
processes of its own:

    trl         `trl.experimental.sdft`: `full_logits`, EMA teacher, the fastest of `--trl-micro-batches` and
                `--trl-attention`, all cores (the tiny model: or one, if that is faster)
    sdft        the recipe of this name, colocated, with trees; the tiny model's answers by `transformers` on one core
    unisd_star  all five mechanisms, K = 3, `contexts.order` question_first (not tiny): all views begin alike

on the embedded model (arithmetic), SmolLM2-135M (ScienceQA records), and four layers of Qwen2.5-0.5B with its 151,936
tokens (random weights, the same records). Both sides take the problems in one order, several answers to each. Samples a
second are completions over the median time of a step from the third on; generation is in it, loading is not. Memory is
PSS summed over all processes of a side, Ray and engine included; the learner's process by itself is compared with
TRL's. It is sampled once a second until two steps are done, for a sample takes time.

PATH is a Python that has TRL 1.16, transformers, datasets and torch; nothing of this project is imported there.
"""

import argparse
import itertools
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, astuple
from pathlib import Path

from benchmarks.output import finish, machine, result_file, show_table
from benchmarks.sides.training import (
    MODELS,
    OURS,
    PROBE_STEPS,
    Row,
    TrlWay,
    batch_of,
    ours,
    steps_of,
    trl,
    with_accuracies,
)


def fastest_trl(model: str, answers: int, options: argparse.Namespace, runs: Path) -> TrlWay:
    """The way in which TRL is fastest, by short runs."""
    batch = batch_of(model, options)
    sizes = [size for size in options.trl_micro_batches or [batch // 4, batch // 2, batch] if size <= batch]
    cores = len(os.sched_getaffinity(0))
    threads = sorted({1, cores}) if model == "tiny" else [cores]
    ways = [TrlWay(*way) for way in itertools.product(sizes, options.trl_attention, threads)]
    if len(ways) == 1:
        return ways[0]
    steps = PROBE_STEPS[model]
    probed = {way: trl(model, answers, 0, steps, way, options, runs / "probes").step_s for way in ways}
    titles = ("micro-batch", "attention", "threads", "s a step")
    show_table(f"TRL on {model}", titles, [(*astuple(way), step_s) for way, step_s in probed.items()])
    return min(probed, key=probed.__getitem__)


def ratios_of(rows: Sequence[Row]) -> dict[str, float]:
    """Ours over TRL's, medians over seeds, with several answers to a prompt: speed, memory, accuracy."""

    def of(model: str, side: str, name: str, answers: int) -> float | None:
        chosen = [
            getattr(row, name)
            for row in rows
            if (row.model, row.side, row.answers_per_prompt) == (model, side, answers)
            and getattr(row, name) is not None
        ]
        return statistics.median(chosen) if chosen else None

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
                of_model.append(trl(model, answers, seed, steps_of(model, options), way, options, runs))
                of_model += [ours(model, side, answers, seed, options, runs) for side in OURS]
                show_rows(of_model)
        rows += of_model if model == "real_vocab" else with_accuracies(of_model, runs)
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
    parser.add_argument(
        "--order", default="question_first", help="contexts.order of unisd_star (default question_first)"
    )
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
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M-Instruct (examples/smollm2.py)")
    parser.add_argument("--records", type=Path, help="ScienceQA records, JSON Lines (task.data)")
    parser.add_argument("--runs", type=Path, help="keep the runs in this folder")
    parser.add_argument("--json", type=result_file, help="write machine, rows and ratios to this file")
    options = parser.parse_args()
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

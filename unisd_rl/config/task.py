"""Tasks, where problems come from: one section per task, told apart by `type`."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from unisd_rl.config.base import Count, Fraction, ModelName, Section, Seed, UserPath, expand_home
from unisd_rl.config.grader import GraderConfig, StatedGrader


class SelfContained(Section):
    """What the tasks without downloads have in common."""

    train_examples: Count = 4000
    """Training problems."""
    eval_examples: Count = 512
    """Held-out problems, disjoint from training."""
    evaluation: Literal["in_domain", "out_of_domain"] = "in_domain"
    """Held-out problems of the training problems' kind, or of a kind that training never shows."""
    wrong_demonstrations: Fraction = 0.0
    """Share of the training problems whose demonstration is wrong, to study what a noisy teacher does."""
    seed: Seed = 0
    """Seed of the split and of the problems' order."""


class ArithmeticTask(SelfContained):
    """The embedded task: two-digit sums and differences with written-out carries. Out of domain: three digits."""

    type: Literal["arithmetic"] = "arithmetic"


class WithThinking(Section):
    """What the tasks for a model of one's own have in common: it may think before it answers."""

    grade_thinking: bool = True
    """Whether what a completion thinks is graded too. False: only what follows its last `</think>`; a completion that
    opens `<think>` and never closes it is wrong."""


class MultiplesTask(SelfContained, WithThinking):
    """Multiple choice with rationales: which of four numbers is a multiple of D. Out of domain: longer numbers.

    For a model of your own: the embedded one only knows arithmetic.
    """

    type: Literal["multiples"]


class ToolUseTask(SelfContained, WithThinking):
    """Requests to answer with one call of a documented tool, in JSON. Out of domain: tools not seen in training.

    For a model of your own: the embedded one only knows arithmetic.
    """

    type: Literal["tool_use"]


class Benchmark(WithThinking):
    """What the published benchmarks have in common."""

    type: str
    data: UserPath | None = None
    """Local copy in the form of its source. Absent: loaded from the hub."""
    train_examples: Count | None = None
    """At most so many training problems, the first ones. Absent: all."""
    eval_examples: Count | None = None
    """At most so many held-out problems, the first ones. Absent: all."""


class ChoiceBenchmark(Benchmark):
    """What the published multiple-choice benchmarks have in common."""

    seed: Seed = 0
    """Seed of the order of each question's options."""


class ScienceQATask(ChoiceBenchmark):
    """ScienceQA, questions without an image: train and test. For non-commercial use (CC BY-NC-SA 4.0).

    `data`: a folder with problems.json and pid_splits.json, or JSON Lines of such records with `pid` and `split`.
    """

    type: Literal["scienceqa"]
    hub: ModelName = "derek-thomas/ScienceQA"
    """What `datasets.load_dataset` takes, where `data` is absent."""
    lecture: bool = True
    """Whether the student reads the lecture that belongs to the question."""


class CosETask(ChoiceBenchmark):
    """CoS-E v1.11, common sense questions with explanations: train and validation.

    `data`: JSON Lines with the published data set's fields and `split`, or a folder with the four source files.
    """

    type: Literal["cos_e"]
    hub: ModelName = "Salesforce/cos_e"
    """What `datasets.load_dataset` takes, where `data` is absent."""


class GPQATask(ChoiceBenchmark):
    """GPQA, for evaluation only. Its authors ask that it be not shown in the open: bring your own copy.

    `data`: the CSV file (gpqa_main.csv, gpqa_diamond.csv or gpqa_extended.csv).
    """

    type: Literal["gpqa"]


class GSM8KTask(Benchmark):
    """GSM8K, grade-school mathematics in words: train and test, graded by the number.

    `data`: a folder with the source's train.jsonl and test.jsonl, or JSON Lines of such records with `split`.
    """

    type: Literal["gsm8k"]
    hub: ModelName = "openai/gsm8k"
    """What `datasets.load_dataset` takes, where `data` is absent."""


class MATHTask(Benchmark):
    r"""MATH-500, competition mathematics: the last `\boxed{}`, graded by math-verify. Training records have its fields.

    `data`: a folder with test.jsonl, and train.jsonl to train on, or JSON Lines of such records with `split`.
    """

    type: Literal["math"]
    hub: ModelName = "HuggingFaceH4/MATH-500"
    """What `datasets.load_dataset` takes, where `data` is absent: its split `test`."""
    train_hub: ModelName | None = None
    """The same for training: its split `train`, with `problem` and `solution`. Absent: only evaluated."""


class MBPPTask(Benchmark):
    """MBPP, short programs: train and test. Programs run in the sandbox.

    `data`: the source's mbpp.jsonl (`variant` full) or sanitized-mbpp.json (`variant` sanitized), or JSON Lines of it.
    """

    type: Literal["mbpp"]
    hub: ModelName = "google-research-datasets/mbpp"
    """What `datasets.load_dataset` takes, where `data` is absent."""
    variant: Literal["sanitized", "full"] = "sanitized"
    """The problems that were checked by hand, as in the paper, or all."""


class HumanEvalTask(Benchmark):
    """HumanEval, functions from their docstrings, for evaluation only. Programs run in the sandbox.

    `data`: the source's HumanEval.jsonl, unpacked.
    """

    type: Literal["humaneval"]
    hub: ModelName = "openai/openai_humaneval"
    """What `datasets.load_dataset` takes, where `data` is absent."""


class ToolAlpacaTask(Benchmark):
    """ToolAlpaca, requests to answer with calls of documented functions: train, and simulated tools held out.

    `data`: the source's train_data.json or eval_simulated.json, or a folder with both, or JSON Lines of such records
    with `split`. The hub's copy has prompts ready made.
    """

    type: Literal["toolalpaca"]
    hub: ModelName = "Ahren09/ToolAlpaca"
    """What `datasets.load_dataset` takes, where `data` is absent."""
    evaluation: Literal["simulated", "real"] = "simulated"
    """The 68 instructions of simulated tools, as in the paper, or those of real tools (in a local copy only)."""


class Fields(Section):
    """Names of a record's fields. With `messages` the prompt is a chat, and what of the other two is not named is read
    from its last turn."""

    prompt: str | None = "prompt"
    """Name of the field the student reads: text, or a list of turns."""
    demonstration: str | None = "demonstration"
    """Name of the field with a worked solution, which only teachers read: text, or one turn of the assistant. With
    `messages`, not named: the last turn, which is then the assistant's."""
    answer: str | None = "answer"
    """Name of the field with the reference answer that completions are graded against. With `messages`, not named: what
    the grader reads from the worked solution."""
    messages: str | None = None
    """Name of a field with a chat: a list of turns with `role` and `content`, as one JSON text too. Absent: the prompt
    is `prompt`."""
    tools: str | None = None
    """Name of a field with the tools that the model may call: a list of JSON schemas, as one JSON text too, which the
    chat template writes. Absent: none."""
    id: str | None = None
    """Name of the field that identifies a record. Absent: its position."""

    @model_validator(mode="before")
    @classmethod
    def _a_chat_stands_for_what_is_not_named(cls, given: object) -> object:
        if not isinstance(given, Mapping) or given.get("messages") is None:
            return given
        if given.get("prompt") is not None:
            raise ValueError(
                f"prompt = {given['prompt']!r} and messages = {given['messages']!r} both say what the student reads: "
                "leave out one of them"
            )
        return {"demonstration": None, "answer": None, **given, "prompt": None}

    @model_validator(mode="after")
    def _something_is_read(self) -> "Fields":
        if self.messages is None and None in (self.prompt, self.demonstration, self.answer):
            raise ValueError("without messages, prompt, demonstration and answer must be named")
        return self


class JsonlTask(Section):
    """A user's own JSON Lines files."""

    type: Literal["jsonl"]
    train: UserPath
    """JSON Lines file with the training records."""
    evaluation: UserPath | None = None
    """JSON Lines file with held-out records. Absent: the last `eval_examples` training records are held out."""
    eval_examples: Count | None = None
    """At most so many held-out records are evaluated. Absent: 500, and of the training records at most a fifth."""
    fields: Fields = Fields()
    """Which field is which."""
    grader: GraderConfig = StatedGrader()
    """How a completion is compared with the reference answer."""


class DatasetsTask(Section):
    """Files of records (JSON Lines, JSON, CSV, Parquet), and any data set that `datasets.load_dataset` loads."""

    type: Literal["datasets"]
    path: Annotated[str, Field(min_length=1), AfterValidator(expand_home)]
    """A file, several by a pattern such as `data/*.parquet`, a local folder, or a hub name."""
    name: str | None = None
    """Configuration of the data set."""
    train_split: str = "train"
    """Split to train on."""
    eval_split: str | None = None
    """Held-out split."""
    evaluation: ModelName | None = None
    """Held-out file or files, where `path` names files: they have no splits. Absent, as `eval_split` is: the last
    `eval_examples` training records are held out."""
    eval_examples: Count | None = None
    """At most so many held-out records are evaluated. Absent: 500, and of the training records at most a fifth."""
    fields: Fields = Fields()
    """Which field is which."""
    grader: GraderConfig = StatedGrader()
    """How a completion is compared with the reference answer."""


class PythonTask(Section):
    """A task of your own: docs/add_a_task.md."""

    type: Literal["python"]
    factory: Annotated[str, Field(pattern=r"^\w+(\.\w+)*:\w+$")]
    """`module:function`, importable from where the job runs. The function returns the task."""
    arguments: dict[str, str | int | float | bool] = {}
    """Given to the function by name."""


TaskConfig = Annotated[
    ArithmeticTask
    | MultiplesTask
    | ToolUseTask
    | ScienceQATask
    | CosETask
    | GPQATask
    | GSM8KTask
    | MATHTask
    | MBPPTask
    | HumanEvalTask
    | ToolAlpacaTask
    | JsonlTask
    | DatasetsTask
    | PythonTask,
    Field(discriminator="type"),
]

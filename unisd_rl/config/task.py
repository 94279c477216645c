"""Where problems come from."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from unisd_rl.config.section import Count, Section


class ArithmeticTask(Section):
    """The embedded task: two-digit sums and differences with written-out carries."""

    type: Literal["arithmetic"] = "arithmetic"
    train_examples: Count = 4000
    """Training problems."""
    eval_examples: Count = 512
    """Held-out problems, disjoint from training."""
    seed: int = 0
    """Seed of the split and of the problems' order."""


class Fields(Section):
    """Names of a record's fields."""

    prompt: str = "prompt"
    """Name of the field the student reads."""
    demonstration: str = "demonstration"
    """Name of the field with a worked solution, which only teachers read."""
    answer: str = "answer"
    """Name of the field with the reference answer that completions are graded against."""
    id: str | None = None
    """Name of the field that identifies a record. Absent: its position."""


class JsonlTask(Section):
    """A user's own JSON Lines files."""

    type: Literal["jsonl"]
    train: Path
    """JSON Lines file with the training records."""
    evaluation: Path | None = None
    """JSON Lines file with held-out records. Absent: the last `eval_examples` training records are held out."""
    eval_examples: Count = 500
    """At most so many held-out records are evaluated."""
    fields: Fields = Fields()
    """Which field is which."""


class DatasetsTask(Section):
    """Anything `datasets.load_dataset` loads."""

    type: Literal["datasets"]
    path: str
    """What `datasets.load_dataset` takes: a hub name, a local folder, or a file format."""
    name: str | None = None
    """Configuration of the data set."""
    train_split: str = "train"
    """Split to train on."""
    eval_split: str | None = None
    """Held-out split. Absent: the last `eval_examples` training records are held out."""
    eval_examples: Count = 500
    """At most so many held-out records are evaluated."""
    fields: Fields = Fields()
    """Which field is which."""


TaskConfig = Annotated[ArithmeticTask | JsonlTask | DatasetsTask, Field(discriminator="type")]

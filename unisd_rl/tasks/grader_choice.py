"""Which grader fits records: the first of the usual ones that finds nearly all of their worked solutions right."""

from collections.abc import Sequence
from typing import get_args

from pydantic import TypeAdapter

from unisd_rl.config.grader import GraderConfig
from unisd_rl.config.task import DatasetsTask, JsonlTask
from unisd_rl.errors import UserError
from unisd_rl.tasks.records import load_datasets, load_jsonl
from unisd_rl.tasks.task import Task
from unisd_rl.types import Example

_TRIED = ("stated", "number", "choice", "json", "math", "exact")
_READ, _ENOUGH = 64, 0.95


def grader_types() -> tuple[str, ...]:
    """The types that `task.grader` may have."""
    return tuple(get_args(kind.model_fields["type"].annotation)[0] for kind in get_args(get_args(GraderConfig)[0]))


def fitting_grader(section: JsonlTask | DatasetsTask) -> tuple[JsonlTask | DatasetsTask, float]:
    """The section with the grader that fits its records, and the share of worked solutions that this finds right: the
    first with 95 % or more, or else the best. Where worked solutions think before they answer it cuts that off.

    Raises:
        UserError: the records cannot be read with any; the sentence is that of the first.
    """
    best, right, refusal = None, -1.0, None
    for kind in _TRIED:
        tried = section.model_copy(update={"grader": TypeAdapter(GraderConfig).validate_python({"type": kind})})
        try:
            share = _share_right(tried)
        except UserError as error:
            refusal = refusal or error
            continue
        if share > right:
            best, right = tried, share
        if right >= _ENOUGH:
            break
    if best is None:
        assert refusal is not None, "every grader was refused"
        raise refusal
    if any("</think>" in example.demonstration for example in _sample(_loaded(best))):
        cut = best.model_copy(update={"grader": best.grader.model_copy(update={"grade_thinking": False})})
        if (share := _share_right(cut)) >= right:
            return cut, share
    return best, right


def _share_right(section: JsonlTask | DatasetsTask) -> float:
    task = _loaded(section)
    read = _sample(task)
    return sum(task.grade(example.demonstration, example) for example in read) / len(read)


def _loaded(section: JsonlTask | DatasetsTask) -> Task:
    return load_jsonl(section) if isinstance(section, JsonlTask) else load_datasets(section)


def _sample(task: Task) -> Sequence[Example]:
    """At most so many training problems, spread over all."""
    return task.train[:: -(-len(task.train) // _READ)]

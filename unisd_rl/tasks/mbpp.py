"""MBPP: short Python programs from a sentence and three assertions (Austin et al., 2021; google-research, folder mbpp).

As in the paper the student reads the assertions that it is tested with. `full` has 974 problems, `sanitized` the 427
that were checked by hand.
"""

import ast

from unisd_rl.config.task import MBPPTask
from unisd_rl.tasks.benchmark_data import from_file, from_hub, take_first
from unisd_rl.tasks.programs import ProgrammingTask, Reference, fenced, top_level
from unisd_rl.tasks.source_records import SourceRecord
from unisd_rl.types import Example

FULL = {"full": {"train": 374, "test": 500}, "sanitized": {"train": 120, "test": 257}}
_RANGES = {"train": range(601, 975), "test": range(11, 511)}  # by task_id; the rest are for few-shot prompts and choice
_TEXT = {"full": "text", "sanitized": "prompt"}
_SETUP = {"full": "test_setup_code", "sanitized": "test_imports"}


def load(config: MBPPTask) -> ProgrammingTask:
    """The task of an `mbpp` section.

    Raises:
        UserError: missing data or a bad record.
    """
    if config.data is not None:
        records = from_file(config.data)
        splits = {
            split: [record for record in records if record.integer("task_id") in numbers]
            for split, numbers in _RANGES.items()
        }
    else:
        fields = ("task_id", "code", "test_list", _TEXT[config.variant], _SETUP[config.variant])
        splits = {split: from_hub(config.hub, config.variant, split, fields) for split in _RANGES}
    examples = {split: [to_example(record, config.variant) for record in splits[split]] for split in _RANGES}
    taken = take_first(config, config.data or config.hub, examples, FULL[config.variant])
    return ProgrammingTask(*taken, grade_thinking=config.grade_thinking)


def to_example(record: SourceRecord, variant: str) -> Example:
    """One record of a variant as an example.

    Raises:
        UserError: it lacks a field, or its reference program is no Python.
    """
    code, asserts = _unix(record.text("code")), [_unix(test) for test in record.texts("test_list")]
    imports = record.texts("test_imports") if variant == "sanitized" else []
    before = [] if variant == "sanitized" else [_unix(record.text("test_setup_code", may_be_empty=True))]
    question = _unix(record.text(_TEXT[variant])).strip() + "\n\nThese tests must pass:\n" + "\n".join(asserts)
    try:
        tests = _tests(code, imports, "\n".join([*before, *asserts]))
    except SyntaxError as error:
        raise record.wrong(f"its code or its tests are no Python ({error.msg})") from error
    return Example(f"mbpp-{record.integer('task_id')}", question, fenced(code), tests.to_json())


def _tests(code: str, imports: list[str], tests: str) -> Reference:
    """What the tests use of the reference program: its definitions by name, its imports by importing them as well."""
    used = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}
    defined = {name: statement for name, statement in top_level(code).items() if name in used}
    modules = {
        name: statement for name, statement in defined.items() if isinstance(statement, ast.Import | ast.ImportFrom)
    }
    setup = "\n".join([*imports, *(ast.unparse(statement) for statement in modules.values())])
    return Reference("", setup, tuple(sorted(set(defined) - set(modules))), tests)


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n")

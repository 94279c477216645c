"""Tasks whose answer is a program: how it is found in a completion, and how the sandbox judges it.

The program of a completion is the last fenced block (`code_blocks.py`) that defines a function the tests call; without
one, the whole text if it is Python that defines one (fences may stand in its docstrings); else the last block marked as
Python; else the last block; else the whole text. A block that is never closed ends at a fence further in than a closing
one may be, if that makes it Python.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice

from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.code_blocks import code_blocks, with_code
from unisd_rl.tasks.program_mutations import mutated_programs, parsed, syntax_tree
from unisd_rl.tasks.sandbox.limits import Trial
from unisd_rl.tasks.sandbox.pool import shared_sandbox
from unisd_rl.tasks.thinking import after_thinking
from unisd_rl.types import Example, Message

_FORM = (
    "Write the whole solution in Python, with the imports it needs (standard library only), as one block that starts "
    "with ```python and ends with ```. Give the functions the names that are asked for."
)
_TRIED_FENCES = 8
_PYTHON = ("python", "python3", "py")


@dataclass(frozen=True, slots=True)
class Reference:
    """What the answer to a programming problem must do: what `Example.answer` says, as JSON."""

    stub: str
    """Start of a program: imports, earlier functions, and the head and docstring of the one to write. May be empty."""
    setup: str
    """Python that the tests need before the program's names are known."""
    names: tuple[str, ...]
    """What the tests use of the program."""
    tests: str
    """Python that raises unless the program is right."""

    def to_json(self) -> str:
        """As `Example.answer` holds it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Reference":
        """The inverse of `to_json`."""
        values = json.loads(text)
        return cls(values["stub"], values["setup"], tuple(values["names"]), values["tests"])


class ProgrammingTask:
    """A task whose completions are programs."""

    def __init__(self, train: Sequence[Example], evaluation: Sequence[Example], grade_thinking: bool = True) -> None:
        self.train, self.evaluation, self._grade_thinking = train, evaluation, grade_thinking

    def student_messages(self, example: Example) -> tuple[Message, ...]:
        """The problem, and the form of the answer."""
        return (Message("user", f"{example.question}\n\n{_FORM}"),)

    def grade(self, completion: str, example: Example) -> bool:
        """Whether the completion's program passes every test in the sandbox.

        Raises:
            SandboxError: the sandbox failed, so there is no grade.
        """
        said = completion if self._grade_thinking else after_thinking(completion)
        return said is not None and shared_sandbox().judge(trial(said, example)).passed

    def leaks(self, text: str, example: Example) -> bool:
        """Whether the text defines a function or class of the reference program: by its name (also in a block that is
        no Python), or with the same body under another name."""
        functions = functions_of(example.demonstration)
        names = "|".join(map(re.escape, functions))
        if names and re.search(rf"\b(?:def|class)\s+(?:{names})\b", text):
            return True
        return not set(functions.values()).isdisjoint(functions_of(text).values())

    def wrong_demonstrations(self, example: Example, seed: int) -> Iterator[str]:
        """The reference program with one mutation, in a seeded order; some change nothing that a test sees."""
        reference = program_in(example.demonstration, ())
        yield from map(fenced, mutated_programs(reference, derive_seed(seed, "wrong", example.id)))


def trial(completion: str, example: Example) -> Trial:
    """The program of a completion with the tests of its problem."""
    tests = Reference.from_json(example.answer)
    return Trial(_completed(program_in(completion, tests.names), tests), tests.setup, tests.names, tests.tests)


def program_in(completion: str, names: Sequence[str]) -> str:
    """The program in a completion (the rule stands at the top of this module)."""
    blocks = code_blocks(completion)
    wanted = [block for block in blocks if _defines_any(block.code, names)]
    if not blocks or (not wanted and _defines_any(completion, names) and syntax_tree(completion) is not None):
        return completion
    marked = [block for block in blocks if block.language in _PYTHON]
    chosen = (wanted or marked or blocks)[-1]
    return chosen.code if chosen.closed else _before_indented_fence(chosen.code)


def _before_indented_fence(code: str) -> str:
    """Of a block that no fence closes: what is before a fence further in than a closing one may be, if that makes a
    program of what is none."""
    fences = list(islice(re.finditer(r"^[ \t]+(?:`{3,}|~{3,})[ \t]*$", code, re.MULTILINE), _TRIED_FENCES))
    if not fences or syntax_tree(code) is not None:
        return code
    programs = (code[: match.start()] for match in fences)
    return next((program for program in programs if syntax_tree(program) is not None), code)


def mutated_demonstrations(demonstration: str, seed: int) -> Iterator[str]:
    """A demonstration with one mutation in the last of its programs, in a seeded order; none without a Python program.

    Some mutations change nothing that a test sees: grade them.
    """
    blocks = code_blocks(demonstration)
    if not blocks or syntax_tree(demonstration) is not None:
        yield from mutated_programs(demonstration, seed)
        return
    for mutated in mutated_programs(blocks[-1].code, seed):
        yield with_code(demonstration, blocks[-1], mutated)


@lru_cache(maxsize=1 << 14)
def functions_of(text: str) -> Mapping[str, str]:
    """The functions and classes that a text's fenced blocks, or the whole text, define at their top level.

    By name, each with its body as a syntax tree without layout. Blocks that are no Python define none.
    """
    return {
        statement.name: "\n".join(ast.dump(line) for line in statement.body)
        for program in (*(block.code for block in code_blocks(text)), text)
        if (tree := syntax_tree(program)) is not None
        for statement in tree.body
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }


def fenced(program: str) -> str:
    """A program as a completion gives it."""
    return f"```python\n{program.strip(chr(10))}\n```"


def top_level(program: str) -> dict[str, ast.stmt]:
    """What a program defines at its top level, by name: functions, classes, variables and imports.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: it is no Python, or too deep.
    """
    return {name: statement for statement in parsed(program).body for name in _bound(statement)}


def _bound(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return [alias.asname or alias.name.split(".")[0] for alias in aliases]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
    return []


def _defines(program: str, name: str) -> bool:
    """Whether a line of a program starts the definition of a name; the program need not be Python."""
    pattern = rf"^(?:async\s+def|def|class)\s+{re.escape(name)}\b|^{re.escape(name)}\s*="
    return re.search(pattern, program, re.M) is not None


def _defines_any(program: str, names: Sequence[str]) -> bool:
    return any(_defines(program, name) for name in names)


def _completed(program: str, tests: Reference) -> str:
    """A program with the stub's earlier lines if it defines the function, and else as the function's body."""
    if not tests.stub:
        return program
    if not _defines(program, tests.names[0]):
        return tests.stub + program
    return tests.stub[: tests.stub.rindex(f"def {tests.names[0]}(")] + program

"""The tool-use task: one request, three documented tools, and the one call that answers it, as JSON; self-contained.

Requests are drawn from the templates of invented tools (`tool_use.toml`). Out of domain are requests for tools that
training never shows. What is held out is decided by a hash of the request, so that the split depends on no seed. It
needs a model that reads requests; the embedded base model does not.
"""

import json
import random
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisd_rl.config.task import ToolUseTask
from unisd_rl.errors import UserError
from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.calls import Call, to_json
from unisd_rl.tasks.task import is_held_out, with_wrong_demonstrations
from unisd_rl.tasks.tool_calling import ToolCalling
from unisd_rl.types import Example

TOOLS_SHOWN = 3
_FORM = (
    "Answer the request with one call of one of these tools, as one JSON object with the keys "
    '"name" and "arguments". Give every argument, and no other.'
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """An argument: its JSON type, what it means, and the values that requests use."""

    kind: str
    meaning: str
    values: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool; in `requests`, `{name}` stands for an argument, and the second part gives arguments put into words."""

    name: str
    purpose: str
    parameters: dict[str, Parameter]
    requests: tuple[tuple[str, dict[str, Any]], ...]

    @property
    def documentation(self) -> str:
        """One line: name, arguments with types, purpose."""
        arguments = (f"{name}: {parameter.kind} ({parameter.meaning})" for name, parameter in self.parameters.items())
        return f"- {self.name}({', '.join(arguments)}): {self.purpose}"

    def drawn(self, draw: random.Random) -> tuple[str, dict[str, Any]]:
        """A request and the arguments it asks for."""
        template, in_words = draw.choice(self.requests)
        values = {
            name: in_words.get(name, draw.choice(parameter.values)) for name, parameter in self.parameters.items()
        }
        return template.format(**values), values


def _tools(kind: str) -> tuple[Tool, ...]:
    """The tools in one of the data file's two lists."""
    data = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))

    def values_of(values: Any) -> Sequence[Any]:
        match values:
            case str():
                values = data["values"][values]
            case {"first": first, "last": last, "step": step}:
                values = [first + step * index for index in range(round((last - first) / step) + 1)]
        return tuple(values)

    return tuple(
        Tool(
            tool["name"],
            tool["purpose"],
            {
                name: Parameter(parameter["kind"], parameter["meaning"], values_of(parameter["values"]))
                for name, parameter in tool["parameters"].items()
            },
            tuple((request["text"], request.get("stated", {})) for request in tool["requests"]),
        )
        for tool in data[kind]
    )


TOOLS, UNSEEN_TOOLS = _tools("seen"), _tools("unseen")


def load(config: ToolUseTask) -> ToolCalling:
    """The task of a `tool_use` section.

    Raises:
        UserError: more problems are asked for than the templates give.
    """
    held_out_tools = TOOLS if config.evaluation == "in_domain" else UNSEEN_TOOLS
    train = _drawn(config.train_examples, TOOLS, False, config.seed, "train_examples")
    evaluation = _drawn(config.eval_examples, held_out_tools, True, config.seed, "eval_examples")
    task = ToolCalling(train, evaluation, demonstration_of, config.grade_thinking)
    task.train = with_wrong_demonstrations(task, config.wrong_demonstrations, config.seed)
    return task


def demonstration_of(calls: Sequence[Call]) -> str:
    """A demonstration of calls: which tools, then the call as a JSON object (several calls as a list)."""
    named = ", then ".join(call.name for call in calls)
    stated = json.dumps({"name": calls[0].name, "arguments": calls[0].arguments}) if len(calls) == 1 else to_json(calls)
    return f"This needs {named}.\n{stated}"


def _drawn(count: int, tools: Sequence[Tool], held_out: bool, seed: int, setting: str) -> list[Example]:
    draw, examples, misses = random.Random(derive_seed(seed, setting)), dict[str, Example](), 0
    while len(examples) < count:
        tool = draw.choice(tools)
        request, arguments = tool.drawn(draw)
        fits = is_held_out(request) == held_out
        if fits and request not in examples:
            shown = [tool, *draw.sample([other for other in tools if other is not tool], TOOLS_SHOWN - 1)]
            draw.shuffle(shown)
            examples[request] = _example(request, Call(tool.name, arguments), shown)
            misses = 0
        elif (misses := misses + 1) > 10_000:
            raise UserError(f"task.{setting} = {count}, but only about {len(examples)} such requests exist: lower it")
    return list(examples.values())


def _example(request: str, call: Call, shown: Sequence[Tool]) -> Example:
    documentation = "\n".join(tool.documentation for tool in shown)
    question = f"Tools:\n{documentation}\n\n{_FORM}\n\nRequest: {request}"
    return Example(request, question, demonstration_of([call]), to_json([call]))

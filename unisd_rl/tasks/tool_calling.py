"""Tasks whose answer is one or several calls of tools."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.calls import Call, calls_in, makes_call, same_calls, stated_calls
from unisd_rl.tasks.thinking import after_thinking
from unisd_rl.types import Example, Message

CallFormat = Callable[[Sequence[Call]], str]


class ToolCalling:
    """A task of requests with documented tools; `call_format` is the form in which demonstrations give calls."""

    def __init__(
        self,
        train: Sequence[Example],
        evaluation: Sequence[Example],
        call_format: CallFormat,
        grade_thinking: bool = True,
    ) -> None:
        self.train, self.evaluation = train, evaluation
        self._format, self._grade_thinking = call_format, grade_thinking

    def student_messages(self, example: Example) -> tuple[Message, ...]:
        """Documentation, request, and the form of the answer."""
        return (Message("user", example.question),)

    def grade(self, completion: str, example: Example) -> bool:
        """Whether the completion makes exactly the wanted calls. An argument given as "" counts as not given."""
        said = completion if self._grade_thinking else after_thinking(completion)
        made = None if said is None else stated_calls(said)
        return made is not None and same_calls([_without_empty(call) for call in made], calls_in(example.answer))

    def leaks(self, text: str, example: Example) -> bool:
        """Whether the text makes all of the wanted calls, in any form and order."""
        return all(makes_call(text, call) for call in calls_in(example.answer))

    def wrong_demonstrations(self, example: Example, seed: int) -> Iterator[str]:
        """The gold calls with one mistake each, in a seeded order: an argument changed, missing or too many, a call
        missing or made twice."""
        draw = random.Random(derive_seed(seed, "wrong", example.id))
        wanted = calls_in(example.answer)
        mistakes = list(mistaken_calls(wanted))
        draw.shuffle(mistakes)
        yield from map(self._format, mistakes)


def _without_empty(call: Call) -> Call:
    return Call(call.name, {key: value for key, value in call.arguments.items() if value != ""})


def mistaken_calls(wanted: list[Call]) -> Iterator[list[Call]]:
    """Calls with one mistake each: an argument changed, missing or too many, a call missing or made twice."""
    for index, call in enumerate(wanted):
        before, after = wanted[:index], wanted[index + 1 :]
        for arguments in _changed(call.arguments):
            yield [*before, Call(call.name, arguments), *after]
        yield [*before, call, call, *after]
        if len(wanted) > 1 and not call.optional:
            yield [*before, *after]


def _changed(arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {**arguments, "limit": 10} if "limit" not in arguments else {**arguments, "offset": 0}
    for key, value in arguments.items():
        yield {**arguments, key: _other(value)}
        yield {name: kept for name, kept in arguments.items() if name != key}


def _other(value: Any) -> Any:
    """A value that is plausible and wrong."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value.partition(" ")[2] or value[::-1] + "s"
        case list():
            return value[:-1] or ["all"]
        case _:
            return {}

"""The tool-use task: one request, three documented tools, and the one call that answers it, as JSON; self-contained.

Requests are drawn from the templates of invented tools. Out of domain are requests for tools that training never shows.
What is held out is decided by a hash of the request, so that the split depends on no seed. It needs a model that reads
requests; the embedded base model does not.
"""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from unisd_rl.config.task import ToolUseTask
from unisd_rl.errors import UserError
from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.calls import Call, to_json
from unisd_rl.tasks.task import with_wrong_demonstrations
from unisd_rl.tasks.tool_calling import ToolCalling
from unisd_rl.types import Example

HELD_OUT_SHARE = 5  # one request in so many is held out
TOOLS_SHOWN = 3
_FORM = (
    "Answer the request with one call of one of these tools, as one JSON object with the keys "
    '"name" and "arguments". Give every argument, and no other.'
)

_PEOPLE = ("Ada", "Ben", "Chloe", "Dev", "Elif", "Femi", "Grace", "Hugo", "Ines", "Jonas", "Kim", "Lena")
_CITIES = ("Oslo", "Lima", "Nairobi", "Kyoto", "Quebec", "Porto", "Hanoi", "Dakar", "Turin", "Perth")
_TOPICS = ("the budget", "our trip", "the new kitchen", "the exam", "the garden", "the concert")
_SONGS = ("Blue River", "Night Train", "Paper Moon", "Golden Hour", "Old Friends", "Stone Bridge")
_ITEMS = ("rice", "lamps", "notebooks", "batteries", "apples", "candles", "towels")
_ROOMS = ("kitchen", "hall", "office", "bedroom", "cellar")
_CURRENCIES = ("EUR", "USD", "JPY", "GBP", "KES", "PEN")
_AMOUNTS = tuple(count / 2 for count in range(21, 400))


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


def _text(meaning: str, values: Sequence[str]) -> Parameter:
    return Parameter("string", meaning, values)


def _integer(meaning: str, values: Sequence[int]) -> Parameter:
    return Parameter("integer", meaning, values)


_YES_NO = (True, False)

TOOLS = (
    Tool(
        "set_timer",
        "rings after some minutes",
        {
            "minutes": _integer("from 1 to 180", range(1, 181)),
            "label": _text("what it is for", ("tea", "bread", "laundry")),
        },
        (
            ("Wake me for the {label} in {minutes} minutes.", {}),
            ("A {minutes} minute timer called {label}, please.", {}),
        ),
    ),
    Tool(
        "send_message",
        "sends a text",
        {
            "to": _text("who gets it", _PEOPLE),
            "topic": _text("what it is about", _TOPICS),
            "urgent": Parameter("boolean", "whether it rings", _YES_NO),
        },
        (
            ("Write to {to} about {topic}. It cannot wait!", {"urgent": True}),
            ("When convenient, drop {to} a line about {topic}; no alarm.", {"urgent": False}),
        ),
    ),
    Tool(
        "play_song",
        "plays music",
        {
            "title": _text("name of the song", _SONGS),
            "volume": _integer("from 0 to 100", range(101)),
            "repeat": Parameter("boolean", "whether it starts again", _YES_NO),
        },
        (
            ("Play {title} at volume {volume}, over and over.", {"repeat": True}),
            ("Once through {title}, volume {volume}.", {"repeat": False}),
        ),
    ),
    Tool(
        "convert_money",
        "says what an amount is worth in another currency",
        {
            "amount": Parameter("number", "how much", _AMOUNTS),
            "source": _text("currency code", _CURRENCIES[:3]),
            "target": _text("currency code", _CURRENCIES[3:]),
        },
        (("How much is {amount} {source} in {target}?", {}), ("Change {amount} {source} into {target}.", {})),
    ),
    Tool(
        "order_item",
        "orders goods",
        {
            "item": _text("what", _ITEMS),
            "count": _integer("how many", range(2, 200)),
            "city": _text("where to", _CITIES),
        },
        (("Have {count} {item} sent to {city}.", {}), ("We are out of {item} in {city}: order {count}.", {})),
    ),
    Tool(
        "get_forecast",
        "says what the weather will be",
        {"city": _text("where", _CITIES), "days": _integer("how many days ahead", range(1, 15))},
        (("Will it rain in {city} within {days} days?", {}), ("The weather in {city} for the next {days} days?", {})),
    ),
)

UNSEEN_TOOLS = (
    Tool(
        "set_heating",
        "warms a room",
        {
            "room": _text("which", _ROOMS),
            "degrees": Parameter("number", "in Celsius", tuple(half / 2 for half in range(30, 50))),
            "hours": _integer("for how long", range(1, 13)),
        },
        (("Make the {room} {degrees} degrees warm for {hours} hours.", {}),),
    ),
    Tool(
        "book_train",
        "reserves seats",
        {
            "origin": _text("from where", _CITIES[:5]),
            "destination": _text("where to", _CITIES[5:]),
            "seats": _integer("how many", range(1, 10)),
            "quiet": Parameter("boolean", "whether in the quiet coach", _YES_NO),
        },
        (
            ("{seats} seats from {origin} to {destination}, in the quiet coach.", {"quiet": True}),
            ("{seats} seats from {origin} to {destination}; we are a noisy party.", {"quiet": False}),
        ),
    ),
    Tool(
        "share_bill",
        "splits a bill",
        {
            "total": Parameter("number", "the sum", _AMOUNTS),
            "people": Parameter("array of strings", "who pays", tuple(pairwise(_PEOPLE))),
        },
        (("Split a bill of {total} between {people[0]} and {people[1]}.", {}),),
    ),
    Tool(
        "water_plants",
        "waters a bed",
        {"bed": _integer("number of the bed", range(1, 41)), "litres": _integer("how much", range(1, 31))},
        (("Bed {bed} is dry: give it {litres} litres.", {}), ("{litres} litres for bed {bed}.", {})),
    ),
)


def load(config: ToolUseTask) -> ToolCalling:
    """The task of a `tool_use` section.

    Raises:
        UserError: more problems are asked for than the templates give.
    """
    held_out_tools = TOOLS if config.evaluation == "in_domain" else UNSEEN_TOOLS
    train = _drawn(config.train_examples, TOOLS, False, config.seed, "train_examples")
    evaluation = _drawn(config.eval_examples, held_out_tools, True, config.seed, "eval_examples")
    task = ToolCalling(train, evaluation, demonstration_of)
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
        fits = (_hash(request) % HELD_OUT_SHARE == 0) == held_out
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


def _hash(request: str) -> int:
    return hashlib.blake2b(request.encode(), digest_size=2).digest()[0]

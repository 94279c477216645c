"""ToolAlpaca: requests to answer with calls of documented functions (Tang et al., 2023; tangqiaoyu/ToolAlpaca).

The student reads a tool's name, description and functions and one request, and answers in the data's own form, ReAct.
An instruction whose gold calls hold a placeholder for what an earlier call returns has no gradable answer and is left
out, and so is one whose password holds a dollar sign: of the 100 on simulated tools that leaves the 68 of the
published test set. An argument whose gold value is the empty string counts as not given.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unisd_rl.config.task import ToolAlpacaTask
from unisd_rl.tasks import calls
from unisd_rl.tasks.benchmark_data import (
    by_split,
    from_file,
    from_hub,
    take_first,
)
from unisd_rl.tasks.calls import Call
from unisd_rl.tasks.source_records import SourceRecord, print_once
from unisd_rl.tasks.tool_calling import ToolCalling
from unisd_rl.types import Example

FULL = {"train": 4046, "evaluation": 68}
_FILES = {"train": "train_data.json", "eval_simulated": "eval_simulated.json", "eval_real": "eval_real.json"}
_HELD_OUT = {"simulated": "eval_simulated", "real": "eval_real"}
_LEFT_OUT = ("Auth0", 0)
_OPTIONAL = "[Optional]"
_HUB_GOLD = ("golden_answer", "golden_response")  # one of them
_FORM = (
    "Say which functions to call to fulfil the request, in order, each as\n"
    "Thought: why this call\n"
    "Action: name of the function\n"
    "Action Input: its arguments as one JSON object\n"
    "Give no argument that the request does not call for. If the request lacks what a call needs, first call "
    'getDetails with {"Question": "what to ask the user"}.'
)


def load(config: ToolAlpacaTask) -> ToolCalling:
    """The task of a `toolalpaca` section.

    Raises:
        UserError: missing data or a bad record.
    """
    train, evaluation = _from_hub(config) if config.data is None else _from_source(config, config.data)
    splits = {"train": train, "evaluation": evaluation}
    full = FULL if config.evaluation == "simulated" else {"train": FULL["train"]}
    taken = take_first(config, config.data or config.hub, splits, full)
    return ToolCalling(*taken, calls.to_react, grade_thinking=config.grade_thinking)


def _from_hub(config: ToolAlpacaTask) -> list[list[Example]]:
    """Records of one instruction each, with the prompt ready made."""
    return [
        [_ready_made(record, f"{split}-{number}") for number, record in enumerate(records)]
        for split in ("train", "test")
        for records in [from_hub(config.hub, None, split, ("prompt",), _HUB_GOLD)]
    ]


def _ready_made(record: SourceRecord, name: str) -> Example:
    response = record.values.get("golden_response") or ""
    text = "\n".join(response) if isinstance(response, list) else str(response)
    given = record.values.get("golden_answer")
    wanted = _gold_calls(record, record.items("golden_answer")) if given else calls.stated_calls(text)
    if not wanted:
        raise record.wrong("neither golden_answer nor golden_response states calls")
    return Example(name, record.text("prompt").strip(), text.strip() or calls.to_react(wanted), calls.to_json(wanted))


def _from_source(config: ToolAlpacaTask, path: Path) -> list[list[Example]]:
    """Records of one tool each."""
    held_out = _HELD_OUT[config.evaluation]
    if path.is_dir():
        tools = {split: from_file(path / _FILES[split]) for split in ("train", held_out)}
    elif path.name in _FILES.values():
        tools = {split: from_file(path) if path.name == file else [] for split, file in _FILES.items()}
    else:
        tools = by_split(from_file(path), tuple(_FILES))
    train = [example for tool in tools["train"] for example in _solved(tool)]
    answers = [_answered(tool, number) for tool in tools[held_out] for number in range(len(tool.texts("Instructions")))]
    _note_left_out(answers.count(None), len(answers), path)
    return [train, [example for example in answers if example is not None]]


def _solved(tool: SourceRecord) -> Iterator[Example]:
    """The solved instances of a training tool; those without steps or with malformed inputs are no examples."""
    for number, instance in enumerate(tool.values.get("Instances") or ()):
        steps = instance.get("intermediate_steps") or ()
        try:
            thoughts = "\n".join(f"Thought:{text}" for (_, _, text), _ in steps)
        except (TypeError, ValueError) as error:
            raise tool.wrong(f"instance {number}: a step must be [[action, input, text], observation]") from error
        made = calls.stated_calls(thoughts)
        if made:
            yield _example(tool, f"train-{tool.text('Name')}-{number}", instance["input"], thoughts, made)


def _answered(tool: SourceRecord, number: int) -> Example | None:
    """One instruction of a held-out tool; None where its gold calls cannot be graded."""
    instruction, gold = tool.texts("Instructions")[number], tool.items("Golden_Answers")
    if number >= len(gold):
        raise tool.wrong(f"Instructions has {number + 1} entries or more, but Golden_Answers only {len(gold)}")
    if (tool.text("Name"), number) == _LEFT_OUT or any("${" in str(step.get("Action_Input")) for step in gold[number]):
        return None
    wanted = _gold_calls(tool, gold[number])
    return _example(tool, f"{tool.text('Name')}-{number}", instruction, calls.to_react(wanted), wanted)


def _gold_calls(record: SourceRecord, steps: Sequence[dict[str, Any]]) -> list[Call]:
    try:
        return [_gold_call(str(step["Action"]), calls.strict_json(step["Action_Input"])) for step in steps]
    except (KeyError, TypeError, ValueError) as error:
        raise record.wrong(f"a gold call is not an Action with a JSON Action_Input ({error})") from error


def _gold_call(name: str, arguments: dict[str, Any]) -> Call:
    given = {key: value for key, value in arguments.items() if value != ""}
    return Call(name.removeprefix(_OPTIONAL), given, optional=name.startswith(_OPTIONAL))


def _example(tool: SourceRecord, name: str, instruction: str, demonstration: str, wanted: list[Call]) -> Example:
    described, functions = (tool.text(field, may_be_empty=True).strip() for field in ("Description", "NLDocumentation"))
    question = f"Tool: {tool.text('Name')}\n{described}\n\n{functions}\n\n{_FORM}\n\nRequest: {instruction.strip()}"
    return Example(name, question, demonstration, calls.to_json(wanted))


def _note_left_out(left_out: int, total: int, path: Path) -> None:
    if left_out:
        print_once(f"{path}: {left_out} of {total} held-out instructions have no gradable answer")

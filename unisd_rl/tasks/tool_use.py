"""A self-contained tool-call task: one request, three documented tools, and the one call that answers it, as JSON.

Requests are drawn from the templates of `toolbox.py`. Out of domain are requests for tools that training never shows.
What is held out is decided by a hash of the request, so that the split depends on no seed. It needs a model that reads
requests; the embedded base model does not.
"""

import hashlib
import json
import random
from collections.abc import Sequence

from unisd_rl.config import ToolUseTask
from unisd_rl.errors import UserError
from unisd_rl.seeds import derive_seed
from unisd_rl.tasks.calls import Call, to_json
from unisd_rl.tasks.task import with_wrong_demonstrations
from unisd_rl.tasks.tool_calling import ToolCalling
from unisd_rl.tasks.toolbox import TOOLS, UNSEEN_TOOLS, Tool
from unisd_rl.types import Example

HELD_OUT_SHARE = 5  # one request in so many is held out
SHOWN = 3
_FORM = (
    "Answer the request with one call of one of these tools, as one JSON object with the keys "
    '"name" and "arguments". Give every argument, and no other.'
)


def load(config: ToolUseTask) -> ToolCalling:
    """The task of a `tool_use` section.

    Raises:
        UserError: more problems are asked for than the templates give.
    """
    held_out_tools = TOOLS if config.evaluation == "in_domain" else UNSEEN_TOOLS
    train = _drawn(config.train_examples, TOOLS, False, config.seed, "train_examples")
    evaluation = _drawn(config.eval_examples, held_out_tools, True, config.seed, "eval_examples")
    right = ToolCalling(train, evaluation, written)
    share = config.wrong_demonstrations
    noisy = with_wrong_demonstrations(train, share, config.seed, right.wrong_demonstrations, right.grade)
    return ToolCalling(noisy, evaluation, written)


def written(calls: Sequence[Call]) -> str:
    """A demonstration: which tool, then the call as a JSON object (several calls as a list)."""
    named = ", then ".join(call.name for call in calls)
    stated = json.dumps({"name": calls[0].name, "arguments": calls[0].arguments}) if len(calls) == 1 else to_json(calls)
    return f"This needs {named}.\n{stated}"


def _drawn(count: int, tools: Sequence[Tool], held_out: bool, seed: int, setting: str) -> list[Example]:
    draw, examples, vain = random.Random(derive_seed(seed, setting)), dict[str, Example](), 0
    while len(examples) < count:
        tool = draw.choice(tools)
        request, arguments = tool.drawn(draw)
        fits = (_hash(request) % HELD_OUT_SHARE == 0) == held_out
        if fits and request not in examples:
            shown = [tool, *draw.sample([other for other in tools if other is not tool], SHOWN - 1)]
            draw.shuffle(shown)
            examples[request] = _example(request, Call(tool.name, arguments), shown)
            vain = 0
        elif (vain := vain + 1) > 10_000:
            raise UserError(f"task.{setting} = {count}, but only about {len(examples)} such requests exist: lower it")
    return list(examples.values())


def _example(request: str, call: Call, shown: Sequence[Tool]) -> Example:
    documentation = "\n".join(tool.documentation for tool in shown)
    question = f"Tools:\n{documentation}\n\n{_FORM}\n\nRequest: {request}"
    return Example(request, question, written([call]), to_json([call]))


def _hash(request: str) -> int:
    return hashlib.blake2b(request.encode(), digest_size=2).digest()[0]

"""What only a look at the tokenizers can refuse: before any engine starts."""

import numpy as np

from unisd_rl.errors import UserError
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.tasks.task import Task


def refuse_long_questions(tokenizer: ChatTokenizer, task: Task, name: str, limit: int) -> None:
    """Raise `UserError` if a problem has more than `limit` tokens: the score would be of fewer, and of easier ones."""
    too_long = sum(len(tokenizer.encode(task.student_messages(one))) > limit for one in task.evaluation)
    if too_long:
        raise UserError(
            f"{too_long} of {len(task.evaluation)} problems of {name} are longer than "
            f"rollout.max_prompt_tokens = {limit}: raise it, or take them out of the data"
        )


def refuse_other_tokens(base: ChatTokenizer, tokenizer: ChatTokenizer, task: Task, model: str) -> None:
    """Raise `UserError` unless the base of retention reads every problem and gold completion as the model does."""
    for one in task.evaluation:
        chat = task.student_messages(one)
        same = np.array_equal(base.encode(chat), tokenizer.encode(chat))
        gold = one.demonstration
        if not same or not np.array_equal(base.encode_completion(gold), tokenizer.encode_completion(gold)):
            raise UserError(
                f"--retention: the base and {model} turn problem {one.id} into different tokens, so they do not belong "
                "together; name the model it was trained from"
            )

"""What must hold for the problems of every task, checked once when one is loaded, whoever made it.

Contexts, grades and likelihoods are kept by a problem's id; views change the last user turn; a teacher reads the
worked solution as right. A task that keeps none of this trains on something else, and no loss curve shows it.
"""

from collections.abc import Callable, Sequence
from traceback import extract_tb
from typing import TypeVar

from unisd_rl.errors import RunFailed, UserError
from unisd_rl.tasks.source_records import half_of_a_pair, print_once
from unisd_rl.tasks.task import Task, grade_all
from unisd_rl.types import Example, Message

_PARTS = ("id", "question", "demonstration", "answer")
_LEAST_RIGHT = 0.05
Result = TypeVar("Result")


def check_problems(task: Task, origin: str) -> None:
    """Check the form of every problem, its chat, and that no two problems of a split have one id.

    Raises:
        UserError: one of them is not as it must be; the sentence opens with `origin`.
    """
    for split, examples in (("training", task.train), ("held-out", task.evaluation)):
        seen = set[str]()
        for number, example in enumerate(examples):
            _check_form(example, f"{origin}: {split} problem {number}")
            if example.id in seen:
                raise UserError(
                    f"{origin}: the id {example.id!r} occurs twice among the {split} problems; give each its own"
                )
            seen.add(example.id)
            chat = of_own_code(origin, f"student_messages of {example.id!r}", task.student_messages, example)
            _check_chat(chat, f"{origin}: student_messages of problem {example.id!r}")


def check_gold(task: Task, origin: str, most: int) -> None:
    """Let the task's grader read its own worked solutions: at most `most`, evenly spread over training and held-out
    problems. Those that it finds wrong are named on stderr, with an example.

    Raises:
        UserError: it finds nearly all of them wrong, so that neither they nor the accuracy would mean anything.
        SandboxError: the sandbox failed.
    """
    gold = [example for example in (*task.train, *task.evaluation) if example.demonstration.strip()]
    read = gold[:: max(1, -(-len(gold) // most))]
    answers = [(example.demonstration, example) for example in read]
    right = of_own_code(origin, "grade of a worked solution", grade_all, task, answers)
    wrong = [example for example, is_right in zip(read, right, strict=True) if not is_right]
    if not wrong:
        return
    found = (
        f"{origin}: its grader finds {len(wrong)} of {len(read)} worked solutions wrong, first that of problem "
        f"{wrong[0].id!r}, which ends {wrong[0].demonstration.rstrip()[-40:]!r} where the answer is "
        f"{wrong[0].answer!r:.40}"
    )
    if len(read) - len(wrong) < _LEAST_RIGHT * len(read):
        raise UserError(f"{found}; each must end as a right completion ends (docs/own_data.md)")
    print_once(found)


def of_own_code(origin: str, what: str, function: Callable[..., Result], *arguments: object) -> Result:
    """What a function of a user's own task returns.

    Raises:
        UserError: it raised; the sentence says what and where.
    """
    try:
        return function(*arguments)
    except (UserError, RunFailed):
        raise
    except Exception as error:
        place = extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"{origin}: {what} raised {type(error).__name__}: {error} ({place.filename}, line {place.lineno})"
        ) from error


def _check_form(example: Example, name: str) -> None:
    for part in _PARTS:
        text = getattr(example, part, None)
        if not isinstance(text, str):
            raise UserError(f"{name}: its {part} must be text, but it is {text!r:.80}")
        if half := half_of_a_pair(text):
            raise UserError(f"{name}: its {part} holds {half!r}, half of a surrogate pair, which is no character")


def _check_chat(chat: Sequence[Message], name: str) -> None:
    whole = isinstance(chat, tuple | list) and all(isinstance(turn, Message) for turn in chat)
    if not whole or not all(isinstance(turn.content, str) for turn in chat):
        raise UserError(f"{name} must be a tuple of Message with text, but it is {chat!r:.80}")
    if not chat or chat[-1].role != "user":
        last = repr(chat[-1].role) if chat else "none"
        raise UserError(f"{name} must end with a turn of 'user', but its last turn is {last}")
    if half := half_of_a_pair([turn.content for turn in chat]):
        raise UserError(f"{name} holds {half!r}, half of a surrogate pair, which is no character")
